"use strict";
// The page asks the same API that programs use; every value is written as text, never as markup.
const $ = (id) => document.getElementById(id);
const PAGE = 120;
let oldest = null, newest = 0, open = null, loading = false, again = false, round = 0;  // of the filter that is shown

const number = (n) => Number(n).toLocaleString("en");
const size = (n) => n < 1e4 ? `${number(n)} B` : n < 1e7 ? `${number(Math.round(n / 1e3))} kB` : `${number(Math.round(n / 1e6))} MB`;
const when = (ms) => new Date(ms).toLocaleString("sv");

async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 401) { signIn(); throw new Error("not signed in"); }
  if (!answer.ok) throw new Error((await answer.json()).error ?? answer.statusText);
  return answer.json();
}

function signIn() {
  $("login").hidden = false;
  $("refused").hidden = !location.search.includes("refused");
  $("leave").hidden = $("erase").hidden = true;
}

function filter() {
  const query = new URLSearchParams();
  if ($("device").value) query.set("device", $("device").value);
  for (const name of ["since", "until"]) if ($(name).value) query.set(name, String(new Date($(name).value).getTime()));
  return query;
}

function figure(face, fresh) {
  const box = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
  image.src = `/api/faces/${face.id}/picture.webp`;
  image.alt = `face ${face.id} of ${face.device}`;
  image.loading = "lazy";
  caption.textContent = `${face.device} · ${when(face.captured).slice(5)} · ${face.bytes} B`;
  box.append(image, caption);
  box.tabIndex = 0;
  box.dataset.id = face.id;
  box.classList.toggle("new", fresh);
  if (fresh) setTimeout(() => box.classList.remove("new"), 3000);
  box.onclick = () => show(face.id);
  box.onkeydown = (event) => { if (event.key === "Enter") show(face.id); };
  return box;
}

async function refresh() {
  if (loading) { again = true; return; }
  loading = true;
  const mine = round;
  try {
    const query = filter();
    query.set("limit", PAGE);
    query.set("after", newest);
    const faces = await ask(`/api/faces?${query}`);
    if (mine !== round) return;
    const first = newest === 0;
    $("grid").prepend(...faces.map((face) => figure(face, !first)));
    if (faces.length) {
      newest = faces[0].id;
      if (first) { oldest = faces.at(-1).id; $("more").hidden = faces.length < PAGE; }
      else if (faces.length === PAGE) return reload();
    }
    $("empty").hidden = $("grid").childElementCount > 0;
    await totals();
  } finally {
    if (mine === round) {
      loading = false;
      if (again) { again = false; refresh(); }
    }
  }
}

async function totals() {
  const stats = await ask("/api/stats"), chosen = $("device").value;
  const saved = Math.max(0, stats.jpeg_bytes - stats.bytes);
  $("totals").textContent = `${number(stats.faces)} faces · ${size(stats.bytes)} · ${size(saved)} saved against JPEG`;
  $("totals").title = "JPEG quality 85 of the decoded pictures, mean of the last ones";
  const names = stats.devices.map((device) => device.device);
  if (names.join() !== [...$("device").options].slice(1).map((option) => option.value).join()) {
    $("device").replaceChildren(new Option("all", ""), ...names.map((name) => new Option(name, name)));
    $("device").value = names.includes(chosen) ? chosen : "";
  }
}

async function reload() {
  round += 1;
  newest = 0; oldest = null; loading = again = false;
  $("grid").replaceChildren();
  $("erase").hidden = filter().size === 0;
  await refresh();
}

async function older() {
  const query = filter();
  query.set("limit", PAGE);
  query.set("before", oldest);
  const mine = round, faces = await ask(`/api/faces?${query}`);
  if (mine !== round) return;
  $("grid").append(...faces.map((face) => figure(face, false)));
  if (faces.length) oldest = faces.at(-1).id;
  $("more").hidden = faces.length < PAGE;
}

async function show(id) {
  const face = await ask(`/api/faces/${id}`);
  open = id;
  $("large").src = `/api/faces/${id}/picture.png`;
  const rows = {
    Device: face.device, Captured: when(face.captured), Received: when(face.received), Track: face.track ?? "–",
    Score: face.score ?? "–", Sharpness: face.sharpness ?? "–", Box: face.box ? face.box.join(", ") : "–",
    Epoch: face.epoch, Sequence: face.sequence, Model: `${face.model} (${face.digest.slice(0, 16)}…)`,
    "Format version": face.version, Group: face.group, Payload: `${face.payload_bytes} bytes`,
    Packet: `${face.packet_bytes} bytes`, "As JPEG": `${number(face.jpeg_bytes)} bytes`,
  };
  $("fields").replaceChildren(...Object.entries(rows).map(([name, value]) => {
    const row = document.createElement("tr");
    for (const text of [name, value]) row.insertCell().textContent = text;
    return row;
  }));
  const links = ["picture.png", "picture.webp", "picture.jpg", "packet.stcq"].map((file) => {
    const link = document.createElement("a");
    link.href = `/api/faces/${id}/${file}`;
    link.download = `face-${id}.${file.split(".")[1]}`;
    link.textContent = file.split(".")[1];
    return link;
  });
  document.querySelector(".links").replaceChildren("Download: ", ...links.flatMap((link) => [link, " "]));
  const hex = face.packet, parts = [["head", hex.slice(0, 10)], ["", hex.slice(10, -8)], ["sum", hex.slice(-8)]];
  $("packet").replaceChildren(...parts.map(([name, text]) => {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = text + " ";
    return span;
  }), `\ngroup ${face.group}, tokens ${face.indices.join(" ")}`);
  $("detail").showModal();
}

async function erase(path, what) {
  if (!confirm(`Erase ${what} for good?`)) return;
  const answer = await ask(path, { method: "DELETE" });
  alert(`${answer.erased} erased`);
  $("detail").close();
  await reload();
}

function listen() {
  const source = new EventSource("/api/live"), badge = $("live");
  source.onopen = () => { badge.className = ""; badge.textContent = "live"; };
  source.onerror = () => { badge.className = "off"; badge.textContent = "not connected"; };
  for (const name of ["faces", "ping"]) source.addEventListener(name, () => refresh().catch(console.error));
}

async function start() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    history.replaceState(null, "", "/");
    await fetch("/login", { method: "POST", body: new URLSearchParams({ token: given }) });
  }
  for (const id of ["device", "since", "until"]) $(id).onchange = () => reload().catch(console.error);
  $("more").onclick = () => older().catch(console.error);
  $("close").onclick = () => $("detail").close();
  $("erase").onclick = () => erase(`/api/faces?${filter()}`, "all faces of this selection");
  $("erase-one").onclick = () => erase(`/api/faces/${open}`, "this face");
  await refresh();
  $("leave").hidden = false;
  listen();
}

start().catch(console.error);
