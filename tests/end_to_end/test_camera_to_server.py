"""From a video through camera, HTTP or MQTT and server to decoded pictures, with real processes."""

from __future__ import annotations

import importlib.util
import io
import ipaddress
import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image
from stcq.cli import main
from stcq.evaluation.recognizer import Recognizer
from stcq.runtime.camera.align import align
from stcq.runtime.camera.config import DetectOptions
from stcq.runtime.camera.detect import YuNet
from stcq.runtime.codec import Codec

spec = importlib.util.spec_from_file_location("end_to_end_tools", Path(__file__).with_name("conftest.py"))
assert spec is not None
assert spec.loader is not None
tools: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tools)
stcq, wait_for, write_config, write_video = tools.stcq, tools.wait_for, tools.write_config, tools.write_video


def framed_face(face: np.ndarray) -> np.ndarray:
    """The embedded face in BGR with something around it, as cascades want it."""
    return cv2.copyMakeBorder(face[:, :, ::-1], 40, 20, 40, 40, cv2.BORDER_REPLICATE)


@pytest.fixture
def short_video(tmp_path: Path, face: np.ndarray) -> Path:
    """The embedded face comes by twice; OpenCV's cascade finds it."""
    framed = framed_face(face)
    return write_video(tmp_path / "short.avi", [framed, framed[:, ::-1]], 230)


@pytest.fixture
def two_pictures(tmp_path: Path, face: np.ndarray) -> Path:
    """A folder; each picture is a scene of its own. A broken one is passed over."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(np.pad(face, ((40, 40), (40, 40), (0, 0)), "edge")).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def pictures_of(server: Any) -> list[np.ndarray]:
    faces = server.get("/api/faces?limit=1000")
    contents = [server.get(f"/api/faces/{face['id']}/picture.png") for face in reversed(faces)]
    return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_a_video_arrives(
    way: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    serve: Callable[..., Any],
    short_video: Path,
    face: np.ndarray,
) -> None:
    broker = request.getfixturevalue("broker") if way == "mqtt" else ""
    server = serve(*(["--mqtt", broker] if broker else []))
    config = write_config(tmp_path, short_video, broker or server.url, server.token("door-1"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert (status["faces"], status["spool"]["delivered"], status["spool"]["waiting"]) == (2, 2, 0)
    faces = server.get("/api/faces")
    assert [(f["device"], f["sequence"], f["bytes"]) for f in faces] == [("door-1", "1", 65), ("door-1", "0", 65)]
    assert all(f["sharpness"] > 20 and f["box"][2] > 0.1 for f in faces)
    for picture in pictures_of(server):  # the astronaut again, not somebody else: like the source, or its mirror image
        small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA).astype(float)
        sources = [cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA).astype(float) for f in (face, face[:, ::-1])]
        assert max(np.corrcoef(small.ravel(), source.ravel())[0, 1] for source in sources) > 0.5
    if way == "mqtt":
        return
    again = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)  # the same video: two new faces
    assert again["spool"]["delivered"] == 4
    assert len({row for row in tools.database_rows(server)}) == 4


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_synthetic_portraits_keep_their_identity(
    way: str, request: pytest.FixtureRequest, tmp_path: Path, serve: Callable[..., Any], shared: Path, codec: Codec
) -> None:
    detector = shared / "models" / "yunet_2026may.onnx"
    portraits = [cv2.imread(str(path)) for path in sorted((shared / "faces" / "sfhq").glob("*.webp"))[:7]]
    broker = request.getfixturevalue("broker") if way == "mqtt" else ""
    server = serve(*(["--mqtt", broker] if broker else []))
    video = write_video(tmp_path / "portraits.avi", portraits, 230)
    config = write_config(tmp_path, video, broker or server.url, server.token("door-1"))
    stcq("camera", config, "--detector", detector, cwd=tmp_path)
    decoded = pictures_of(server)
    assert len(decoded) == len(portraits)  # every face once, in order
    net = YuNet(DetectOptions(file=str(detector)))
    sources = np.stack([align(portrait, net.detect(portrait)[0], 128) for portrait in portraits])
    recognizer = Recognizer.load(shared / "models" / "mobilefacenet.onnx")

    def embed(images: Any) -> np.ndarray:
        return np.stack([recognizer.embed(image) for image in images])

    similarity = embed(decoded) @ embed(sources).T  # (decoded, sources)
    promised = (embed(codec.decode_batch(codec.encode_batch(list(sources)))) * embed(sources)).sum(1)
    print(f"identity similarity {np.diag(similarity).mean():.3f}, of the codec alone {promised.mean():.3f}")
    assert (similarity.argmax(1) == np.arange(len(portraits))).all()
    assert np.diag(similarity).mean() > promised.mean() - 0.1


def test_a_folder_of_pictures_and_a_dry_run(tmp_path: Path, two_pictures: Path) -> None:
    config = write_config(tmp_path, two_pictures, "")
    status = json.loads(stcq("camera", config, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert status["faces"] == 2
    estimate = status["estimate"]
    assert estimate["payload_bytes_per_face"] == 65
    assert 100 < estimate["bytes_per_face"] < 130
    assert not list(tmp_path.glob("stcq-spool*"))
    assert "bytes_per_day" in stcq("camera", config, "--dry-run", cwd=tmp_path).stdout


def test_killed_between_commit_and_acknowledgement(
    tmp_path: Path, serve: Callable[..., Any], short_video: Path, processes: Callable[..., Any]
) -> None:
    """A proxy swallows the first answer and kills the server: the batch is stored, the camera does not know."""
    server = serve()
    listener = socket.create_server(("127.0.0.1", 0))
    swallowed: list[bytes] = []

    def proxy() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(("127.0.0.1", server.port))
            except OSError:  # killed
                client.close()
                continue
            threading.Thread(target=forward, args=(client, upstream, False), daemon=True).start()
            threading.Thread(target=forward, args=(upstream, client, True), daemon=True).start()

    def forward(source: socket.socket, target: socket.socket, answers: bool) -> None:
        with source, target:
            try:
                while content := source.recv(65536):
                    if answers and not swallowed:
                        swallowed.append(content)
                        server.kill()
                        server.start()
                        return
                    target.sendall(content)
            except OSError:
                pass

    threading.Thread(target=proxy, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = write_config(tmp_path, short_video, url, server.token("door-1"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    listener.close()
    assert swallowed[0].startswith(b"HTTP/1.1 200")
    assert status["spool"]["delivered"] == 2
    rows = tools.database_rows(server)
    assert [row[2] for row in rows] == [0, 1]  # stored once each


def test_sigterm_commits_what_was_seen(
    request: pytest.FixtureRequest, tmp_path: Path, face: np.ndarray, processes: Callable[..., Any]
) -> None:
    framed = framed_face(face)
    stream = MjpegServer(framed)
    config = write_config(tmp_path, stream.url, "", more="[track]\nsettle = 100.0\n")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    request.addfinalizer(notify.close)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(30)
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
    port = tools.free_port()
    command = [*tools.CLI, "camera", config, "--preview", port]
    camera = processes(*command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert notify.recv(100) == b"READY=1"
    assert notify.recv(100) == b"WATCHDOG=1"
    wait_for(lambda: json.loads(status_text(tmp_path)).get("detections", 0) > 5)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stream", timeout=30) as preview:
        assert b"\xff\xd8\xff" in preview.read(2000)  # a JPEG
    running = stcq("camera", config, "--status", "--json", cwd=tmp_path)
    assert json.loads(running.stdout)["alive"]
    camera.send_signal(signal.SIGTERM)
    out, error = camera.communicate(timeout=30)
    assert camera.returncode == 0, error
    stream.close()
    assert "accepted: 1" in out  # the track had not settled
    stopped = stcq("camera", config, "--status", cwd=tmp_path, check=False)
    assert (stopped.returncode, "alive: False" in stopped.stdout) == (1, True)


def status_text(folder: Path) -> str:
    path = folder / "stcq-status.json"
    return path.read_text() if path.exists() else "{}"


class MjpegServer:
    """A network camera: MJPEG over HTTP, which can hang or repeat one frame."""

    def __init__(self, picture: np.ndarray) -> None:
        self.mode, self.connections, self.sent = "moving", 0, 0
        self._picture = cv2.resize(picture, (220, 220), interpolation=cv2.INTER_AREA)
        self._listener = socket.create_server(("127.0.0.1", 0))
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


def test_a_camera_that_hangs_or_lies_is_opened_anew(
    tmp_path: Path, face: np.ndarray, processes: Callable[..., Any]
) -> None:
    stream = MjpegServer(framed_face(face))
    config = write_config(tmp_path, stream.url, "", more="[track]\nsettle = 0.3\n")
    camera = processes(*tools.CLI, "camera", config, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def status(name: str) -> Any:
        return json.loads(status_text(tmp_path)).get(name, 0)

    wait_for(lambda: status("frames") > 10)
    for failure in ("hanging", "repeating", "stopped"):
        before, restarts = stream.connections, status("capture_restarts")
        if failure == "stopped":
            os.kill(int(children_of(camera)[0]), signal.SIGSTOP)
        else:
            stream.mode = failure
        began = time.monotonic()
        wait_for(lambda before=before: stream.connections > before)  # opened anew
        print(f"{failure}: opened anew after {time.monotonic() - began:.1f} s")
        stream.mode, frames = "moving", status("frames")
        wait_for(lambda frames=frames: status("frames") > frames + 5)
        assert status("capture_restarts") > restarts
    camera.send_signal(signal.SIGTERM)
    assert camera.wait(30) == 0
    stream.close()


def children_of(process: subprocess.Popen[str]) -> list[str]:
    return subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()


def test_a_camera_dies_with_its_capture_process(
    tmp_path: Path, face: np.ndarray, processes: Callable[..., Any]
) -> None:
    stream = MjpegServer(face[:, :, ::-1])
    config = write_config(tmp_path, stream.url, "")
    camera = processes(*tools.CLI, "camera", config, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: json.loads(status_text(tmp_path)).get("frames", 0) > 0)
    child = children_of(camera)[0]
    camera.kill()
    camera.wait()
    wait_for(lambda: subprocess.run(["kill", "-0", child], capture_output=True).returncode != 0, 10)
    stream.close()


def certificates(folder: Path) -> None:
    """An authority, a server 127.0.0.1 and a device door-1, as PEM files."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    now = datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    for who in ("ca", "server", "door-1"):
        key = authority_key if who == "ca" else ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(who))
            .issuer_name(name("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(who == "ca", None), True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), False)
        )
        if who == "server":
            address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([address]), False)
        if who == "ca":
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
                False,
            )
            builder = builder.add_extension(
                x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False),
                True,
            )
        certificate = builder.sign(authority_key, hashes.SHA256())
        (folder / f"{who}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (folder / f"{who}.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )


def test_client_certificates_over_tls(tmp_path: Path, serve: Callable[..., Any], two_pictures: Path) -> None:
    certificates(tmp_path)
    server = serve(
        "--certificate", tmp_path / "server.pem", "--key", tmp_path / "server.key", "--client-ca", tmp_path / "ca.pem"
    )
    url = server.url.replace("http:", "https:")
    config = write_config(tmp_path, two_pictures, url)
    text = config.read_text().replace('token = "token"', 'ca = "ca.pem"')
    certificate = 'certificate = "door-1.pem"\ncertificate_key = "door-1.key"\n'
    config.write_text(text.replace("[upload]\n", "[upload]\n" + certificate))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert status["spool"]["delivered"] == 2
    config.write_text(text.replace("stop_seconds = 30.0", "stop_seconds = 1.0"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert (status["spool"]["delivered"], status["spool"]["waiting"]) == (2, 2)  # without a certificate: kept
    assert status["upload"]["last_error"]


def test_mqtt_refuses_other_devices(tmp_path: Path, serve: Callable[..., Any], broker: str, two_pictures: Path) -> None:
    server = serve("--mqtt", broker)
    config = write_config(tmp_path, two_pictures, broker, server.token("door-2"))
    config.write_text(config.read_text().replace("stop_seconds = 30.0", "stop_seconds = 2.0"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert "403" in status["upload"]["last_error"]
    assert status["spool"]["waiting"] == 2
    assert tools.database_rows(server) == []


def test_endless_bodies_are_cut_off(serve: Callable[..., Any]) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        head = f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token('door-1')}\r\n"
        client.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        sent = 0
        try:
            while sent < 100_000_000:
                client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
                sent += 65536
        except OSError:
            pass
        assert sent < 20_000_000


def test_bad_configurations_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    cases = {
        'device = "a b"': "device",
        "": "device",
        'device = "a"\nsauce = 1': "sauce",
        'device = "a"\n[source]\nurl = 3': "url",
        'device = "a"\n[source]\nurl = "none.mp4"': "none.mp4",
        'device = "a"\n[detect]\nmethod = "magic"': "magic",
        'device = "a"\n[upload]\nurl = "http://example.com"': "plain = true",
        'device = "a"\n[upload]\nurl = "https://127.0.0.1:1"\ntoken = "missing"': "stcq token add",
        'device = "a"\n[spool]\nmax_bytes = "many"': "many",
        'device = "a"\n[spool]\npath = "no/such/folder/x.db"': "does not exist",
        "device = ": "cannot be read",
    }
    for text, expected in cases.items():
        (tmp_path / "camera.toml").write_text(text)
        result = CliRunner().invoke(main, ["camera", str(tmp_path / "camera.toml")])
        assert result.exit_code == 13, (text, result)
        assert expected in result.stderr, (text, result.stderr)
        assert result.stderr.count("\n") == 1, (text, result.stderr)
