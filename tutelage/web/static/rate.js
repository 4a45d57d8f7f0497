import { History, Leases, typing } from "/static/room.js";

const pair = document.getElementById("pair");
const sides = [...pair.querySelectorAll(".clip")];
const asked = document.getElementById("asked");
const history = new History();
let rate = 1;
let ended = 0;
let playing = 0;  // counts leases, so that a late event of an earlier pair moves nothing

function show(lease) {
  pair.hidden = !lease;
  asked.hidden = !lease;
  playing += 1;
  if (!lease) return;
  sides.forEach((side, place) => fill(side, lease.parts[place]));
  play();
}

function fill(side, part) {
  side.className = part.text !== undefined ? "clip text" : "clip";
  if (part.text !== undefined) return side.replaceChildren(part.text);
  if (part.reason) return side.replaceChildren(Object.assign(document.createElement("p"), { textContent: `No clip: ${part.reason}.` }));
  const video = document.createElement("video");
  Object.assign(video, { src: part.source, muted: true, playsInline: true, preload: "auto" });
  video.dataset.item = part.id;
  side.replaceChildren(video);
}

const videos = () => [...pair.querySelectorAll("video")];

// Both start together; both freeze at the end until the longer one is over, and a moment more.
function play() {
  const now = playing;
  ended = 0;
  for (const video of videos()) {
    video.currentTime = 0;
    video.playbackRate = rate;
    video.onended = () => {
      ended += 1;
      if (now === playing && ended >= videos().length) setTimeout(() => now === playing && play(), 300);
    };
    video.play().catch(() => {});
  }
}

function answer(given) {
  const lease = leases.current;
  if (!lease || pair.hidden) return;
  const words = { 0: lease.order[0] === 0 ? "left" : "right", 1: lease.order[1] === 0 ? "left" : "right" };
  history.record(lease, words[given] ?? given);
  leases.next();
}

function undo() {
  const lease = history.undo();
  if (lease) leases.back(lease);
}

function slow() {
  rate = rate === 1 ? 0.5 : 1;
  document.getElementById("slow").setAttribute("aria-pressed", String(rate !== 1));
  for (const video of videos()) video.playbackRate = rate;
}

const keys = {
  ArrowLeft: () => answer("0"), ArrowRight: () => answer("1"), ArrowUp: () => answer("tie"), ArrowDown: () => answer("unknown"),
  u: undo, Backspace: undo, " ": play, s: slow,
};
addEventListener("keydown", (event) => {
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action || typing(event) || event.repeat || (event.key === " " && event.target.matches("button, a, summary"))) return;
  event.preventDefault();
  action();
});
for (const side of sides) side.onclick = () => answer(side.dataset.side);
for (const button of document.querySelectorAll("[data-answer]")) button.onclick = () => answer(button.dataset.answer);
document.getElementById("undo").onclick = undo;
document.getElementById("replay").onclick = play;
document.getElementById("slow").onclick = slow;

const leases = new Leases("pair", show);
