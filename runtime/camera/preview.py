"""A page with what the camera sees, for setting it up: MJPEG, on this machine only."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2

from ...errors import CameraError
from ..images import Pixels

log = logging.getLogger("stcq.camera")
PAGE = b"""<!doctype html><title>stcq camera</title><style>body{margin:0;background:#222}img{max-width:100%}</style>
<img src="/stream" alt="what the camera sees">"""
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
PERIOD = 0.1


class Preview:
    """An HTTP server in a thread; frames are compressed only while somebody looks."""

    def __init__(self, port: int) -> None:
        """Take the port.

        Raises:
            CameraError: it is taken.
        """
        self._jpeg, self._number, self._watching = b"", 0, 0
        self._changed, self._last, self._stopped = threading.Condition(), 0.0, False
        handler = type("Handler", (_Handler,), {"preview": self})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise CameraError(f"preview port {port} cannot be used: {error.strerror}; choose another") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="preview", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()
        log.info("preview on http://127.0.0.1:%d", self._server.server_address[1])

    def stop(self) -> None:
        """End."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def show(self, image: Pixels, boxes: Sequence[tuple[float, float, float, float]]) -> None:
        """The newest frame, uint8 BGR, with boxes around faces; at most ten a second."""
        now = time.monotonic()
        if not self._watching or now - self._last < PERIOD:
            return
        self._last = now
        drawn = image.copy()
        for left, top, width, height in boxes:
            corners = (int(left), int(top)), (int(left + width), int(top + height))
            cv2.rectangle(drawn, *corners, (80, 220, 80), 2)
        fine, jpeg = cv2.imencode(".jpg", drawn, [cv2.IMWRITE_JPEG_QUALITY, 80])
        if fine:
            with self._changed:
                self._jpeg, self._number = jpeg.tobytes(), self._number + 1
                self._changed.notify_all()

    def frames(self) -> Any:
        """JPEGs as they come, for one viewer."""
        self._watching += 1
        seen = 0
        try:
            while not self._stopped:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or self._number != seen, 5.0)  # noqa: B023
                    jpeg, fresh, seen = self._jpeg, self._number != seen, self._number
                if fresh and jpeg:
                    yield jpeg
        finally:
            self._watching -= 1


class _Handler(BaseHTTPRequestHandler):
    preview: Preview

    def do_GET(self) -> None:
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in ("127.0.0.1", "localhost"):
            self.send_error(403)  # another site's name that points here
        elif self.path == "/":
            self._head("text/html", len(PAGE))
            self.wfile.write(PAGE)
        elif self.path == "/stream":
            self._head("multipart/x-mixed-replace; boundary=frame")
            self._stream()
        else:
            self.send_error(404)

    def _stream(self) -> None:
        try:
            for jpeg in self.preview.frames():
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
        except OSError:
            pass  # the viewer has gone

    def _head(self, kind: str, size: int | None = None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if size is not None:
            self.send_header("Content-Length", str(size))
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Not into the camera's log."""
