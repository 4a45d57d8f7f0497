import { History, Leases } from "/static/room.js";

const form = document.getElementById("lease");
const order = document.getElementById("order");
const note = document.getElementById("note");
const confidence = document.getElementById("confidence");
const history = new History();
let dragged = null;

function show(lease) {
  form.hidden = !lease;
  document.getElementById("asked").hidden = !lease;
  if (!lease) return;
  note.value = "";
  confidence.value = 5;
  document.getElementById("sure").textContent = "5";
  order.replaceChildren(...lease.parts.map((part, place) => entry(part, lease.order[place])));
  number();
  order.firstElementChild.focus();
}

function entry(part, index) {
  const line = document.createElement("li");
  line.tabIndex = 0;
  line.draggable = true;
  line.dataset.index = index;
  const body = Object.assign(document.createElement("div"), { className: "body" });
  if (part.source) body.append(Object.assign(document.createElement("video"), { src: part.source, muted: true, loop: true, autoplay: true, playsInline: true }));
  else body.textContent = part.text ?? `No clip: ${part.reason}.`;
  line.append(Object.assign(document.createElement("span"), { className: "place" }), body);
  line.ondragstart = () => { dragged = line; line.classList.add("dragged"); };
  line.ondragend = () => { line.classList.remove("dragged"); dragged = null; number(); };
  line.ondragover = (event) => {
    event.preventDefault();
    if (!dragged || dragged === line) return;
    const box = line.getBoundingClientRect();
    line[event.clientY < box.top + box.height / 2 ? "before" : "after"](dragged);
  };
  line.onkeydown = (event) => {
    const up = event.key === "ArrowUp", down = event.key === "ArrowDown";
    if (event.key === "=") line.classList.toggle("equal");
    else if (up && event.altKey) line.previousElementSibling?.before(line);
    else if (down && event.altKey) line.nextElementSibling?.after(line);
    else if (up) line.previousElementSibling?.focus();
    else if (down) line.nextElementSibling?.focus();
    else return;
    event.preventDefault();
    if (event.altKey) line.focus();
    number();
  };
  return line;
}

function number() {
  let place = 0;
  [...order.children].forEach((line, position) => {
    if (position === 0) line.classList.remove("equal");
    if (!line.classList.contains("equal")) place = position + 1;
    line.querySelector(".place").textContent = `${place}`;
    line.setAttribute("aria-label", `Place ${place}${line.classList.contains("equal") ? ", equal to the one above" : ""}: ${line.querySelector(".body").textContent.slice(0, 200)}`);
  });
}

function finish(answer) {
  history.record(leases.current, answer, { note: note.value.trim() || null, confidence: Number(confidence.value) });
  leases.next();
}

form.onsubmit = (event) => {
  event.preventDefault();
  finish([...order.children].map((line, position) => (position === 0 ? "" : line.classList.contains("equal") ? "=" : ">") + line.dataset.index).join(""));
};
addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey && !form.hidden) form.requestSubmit(); });
confidence.oninput = () => { document.getElementById("sure").textContent = confidence.value; };
document.getElementById("unknown").onclick = () => finish("unknown");
document.getElementById("undo").onclick = () => { const lease = history.undo(); if (lease) leases.back(lease); };

const leases = new Leases("rank", show);
