import { History, Leases, typing } from "/static/room.js";

const kind = document.getElementById("work").dataset.kind;
const single = document.getElementById("single");
const moment = document.getElementById("moment");  // of the page Flag only
const history = new History();
const RATE = 30;  // frames, and so steps, per second of a clip

function show(lease) {
  single.hidden = !lease;
  document.getElementById("asked").hidden = !lease;
  if (!lease) return;
  const part = lease.parts[0];
  if (part.text !== undefined) return single.replaceChildren(Object.assign(document.createElement("p"), { className: "text", textContent: part.text }));
  if (part.reason) return single.replaceChildren(Object.assign(document.createElement("p"), { className: "empty", textContent: `No clip: ${part.reason}.` }));
  const video = document.createElement("video");
  Object.assign(video, { src: part.source, muted: true, loop: true, playsInline: true, controls: true });
  single.replaceChildren(video);
  if (moment) {
    video.onloadedmetadata = () => { moment.max = Math.max(Math.round(video.duration * RATE) - 1, 0); moment.disabled = false; };
    video.ontimeupdate = () => { if (!video.paused) mark(Math.floor(video.currentTime * RATE)); };
    moment.oninput = () => { video.pause(); video.currentTime = moment.value / RATE; mark(moment.value); };
  }
  video.play().catch(() => {});
}

function mark(step) {
  moment.value = step;
  document.getElementById("at").textContent = `step ${moment.value}`;
}

function answer(given) {
  if (!leases.current || single.hidden) return;
  history.record(leases.current, given === "never" ? `never@${moment.value}` : given);
  leases.next();
}

function undo() {
  const lease = history.undo();
  if (lease) leases.back(lease);
}

const keys = kind === "rate"
  ? { ArrowUp: () => answer("up"), ArrowDown: () => answer("down"), 0: () => answer("unknown"), u: undo, ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7].map((n) => [n, () => answer(String(n))])) }
  : { n: () => answer("never"), f: () => answer("fine"), 0: () => answer("unknown"), u: undo };
addEventListener("keydown", (event) => {
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || (typing(event) && event.target !== moment) || event.repeat) return;
  event.preventDefault();
  action();
});
for (const button of document.querySelectorAll("[data-answer]")) button.onclick = () => answer(button.dataset.answer);
document.getElementById("undo").onclick = undo;

const leases = new Leases(kind, show);
