"""A network camera that can hang."""

from __future__ import annotations

import socket
import threading
import time

import cv2
import numpy as np


class MjpegServer:
    """A network camera: MJPEG over HTTP, which can hang or repeat one frame."""

    def __init__(self, picture: np.ndarray, port: int = 0) -> None:
        self.mode, self.connections, self.sent = "moving", 0, 0
        self._picture = cv2.resize(picture, (220, 220), interpolation=cv2.INTER_AREA)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/video"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listener.close()
        self.mode = "closed"

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._stream, args=(client,), daemon=True).start()

    def _stream(self, client: socket.socket) -> None:
        with client:
            try:
                client.recv(65536)
                head = "HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n"
                client.sendall(head.encode())
                while self.mode != "closed":
                    if self.mode != "hanging":
                        jpeg = self._jpeg()
                        head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                        client.sendall(head.encode() + jpeg + b"\r\n")
                    time.sleep(0.08)
            except OSError:
                pass

    def _jpeg(self) -> bytes:
        self.sent += self.mode == "moving"
        frame = np.full((480, 640, 3), 110, np.uint8)
        left = 100 + self.sent % 60 * 2
        frame[100:320, left : left + 220] = self._picture
        return cv2.imencode(".jpg", frame)[1].tobytes()
