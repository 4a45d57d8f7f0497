const csrf = document.querySelector('meta[name="csrf"]').content;
const screen = document.getElementById("screen");
const told = document.getElementById("told");
const start = document.getElementById("start");
const keys = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", " ": "fire" };
const held = new Set();
const STEP = 1000 / 15;  // as fast as Atari runs with four frames to an action
let playing = 0;

async function step(game, fresh) {
  const body = JSON.stringify({ game, keys: [...held], fresh });
  const answer = await fetch("/play/step", { method: "POST", headers: { "X-CSRF-Token": csrf, "Content-Type": "application/json" }, body });
  if (!answer.ok) throw new Error((await answer.json()).detail);
  screen.getContext("2d").drawImage(await createImageBitmap(await answer.blob()), 0, 0);
  return { score: answer.headers.get("X-Score"), over: answer.headers.get("X-Over") === "1" };
}

async function play() {
  const mine = ++playing, game = document.getElementById("game").value;
  const end = Date.now() + 1000 * document.getElementById("play").dataset.seconds;
  told.textContent = "The game is being set up …";
  start.textContent = "Begin again";
  screen.focus();
  try {
    for (let fresh = true; mine === playing; fresh = false) {
      const began = Date.now();
      const { score, over } = await step(game, fresh);
      const left = Math.max(Math.round((end - began) / 1000), 0);
      told.textContent = left ? `Score ${score} · ${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} left` : `Score ${score} · five minutes are over: you know the game now`;
      await new Promise((wake) => setTimeout(wake, over ? 1000 : Math.max(STEP - (Date.now() - began), 0)));
    }
  } catch (error) {
    if (mine === playing) told.textContent = error.message;
  }
}

start.onclick = play;
screen.tabIndex = 0;
addEventListener("keydown", (event) => {
  if (!keys[event.key] || /^(SELECT|BUTTON)$/.test(event.target.tagName)) return;
  event.preventDefault();
  held.add(keys[event.key]);
});
addEventListener("keyup", (event) => held.delete(keys[event.key]));
addEventListener("blur", () => held.clear());
for (const button of document.querySelectorAll("[data-key]")) {
  button.onpointerdown = (event) => { event.preventDefault(); held.add(button.dataset.key); };
  button.onpointerup = button.onpointerleave = () => held.delete(button.dataset.key);
}
