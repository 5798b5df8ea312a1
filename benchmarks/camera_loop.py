"""The camera's loop on 640 x 480 video: frames a second, CPU, latency from frame to spool.

usage: python benchmarks/camera_loop.py [--frames 400] [--rate 15] [--detector yunet.onnx] [--threads 2]   prints JSON

Two runs for each detector: a video file as fast as it goes (frames_per_second is what the loop can do), and a network
camera (MJPEG over HTTP) at --rate, where a face is sent about twice a second and latencies are taken: from the moment
the deciding frame left OpenCV to the end of the commit (200 ms of group commit included). The picture is the embedded
face. CPU seconds are of the camera and its capture process.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from stcq.runtime.camera.config import read_config
from stcq.runtime.camera.loop import Camera

FACE = Path(__file__).parent.parent / "assets" / "face.png"


def frame(number: int) -> np.ndarray:
    """The face on its way over a grey wall."""
    image = np.full((480, 640, 3), 110, np.uint8)
    face = cv2.copyMakeBorder(cv2.imread(str(FACE)), 40, 20, 40, 40, cv2.BORDER_REPLICATE)
    left, top = 40 + number % 100 * 3, 60 + number % 50
    image[top : top + 230, left : left + 230] = cv2.resize(face, (230, 230))
    return image


def write_video(path: Path, frames: int) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 15, (640, 480))
    for number in range(frames):
        writer.write(frame(number))
    writer.release()


def stream(rate: float) -> str:
    """A network camera; returns its URL."""
    jpegs = [cv2.imencode(".jpg", frame(number))[1].tobytes() for number in range(100)]
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        client, _ = listener.accept()
        client.recv(65536)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=b\r\n\r\n")
        start = time.monotonic()
        try:
            for number in range(10**9):
                jpeg = jpegs[number % len(jpegs)]
                head = f"--b\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                client.sendall(head.encode() + jpeg + b"\r\n")
                time.sleep(max(0.0, start + (number + 1) / rate - time.monotonic()))
        except OSError:
            pass

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/"


def measure(folder: Path, source: str, detector: str, threads: int, seconds: float | None) -> dict[str, Any]:
    detect = f'method = "yunet"\nfile = "{detector}"' if detector else 'method = "cascade"'
    path = folder / "camera.toml"
    path.write_text(
        f'device = "bench"\nthreads = {threads}\n[source]\nurl = "{source}"\n[detect]\n{detect}\n'
        f"[track]\nsettle = 0.0\ninterval = 0.5\n"
    )
    camera = Camera(read_config(path))
    before, began = os.times(), time.monotonic()
    status = camera.run(seconds)
    wall, after = time.monotonic() - began, os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return {
        "frames": status["frames"],
        "frames_per_second": round(status["frames"] / wall, 1),
        "cpu_ms_per_frame": round(1000 * cpu / max(1, status["frames"]), 1),
        "cpu_share_of_2_cores": round(cpu / wall / 2, 3),
        "skipped_frames": status["skipped_frames"],
        "faces": status["faces"],
        "latency_ms": status.get("latency_ms"),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--rate", type=float, default=15.0)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--detector", default="")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    result: dict[str, Any] = {"load_average": os.getloadavg()[0]}
    for name, detector in {"cascade": "", "yunet": options.detector}.items():
        if name == "yunet" and not detector:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_video(folder / "video.avi", options.frames)
            as_fast = measure(folder, "video.avi", detector, options.threads, None)
            live = measure(folder, stream(options.rate), detector, options.threads, options.seconds)
        result[name] = {"file": as_fast, "live": live}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
