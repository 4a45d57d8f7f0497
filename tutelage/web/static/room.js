// What every working page shares: leases that are fetched ahead, and answers that outlive the network.

const csrf = document.querySelector('meta[name="csrf"]').content;
const rater = document.querySelector('meta[name="rater"]').content;
const AHEAD = 8;
const element = (id) => document.getElementById(id);

export function identifier() {  // crypto.randomUUID needs https, which a room in a lab may not have
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function send(path, body) {
  const headers = { "X-CSRF-Token": csrf, Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body: body && JSON.stringify(body) });
  if (answer.status === 401) throw Object.assign(new Error("signed out"), { signedOut: true });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

// Answers are written here first and leave only when the server has said that they are on its disk. Sending one twice is harmless.
class Answers {
  #key = `tutelage.answers.${rater}`;
  #sending = false;
  onrefusal = () => {};

  get kept() { return JSON.parse(localStorage.getItem(this.#key) ?? "[]"); }

  add(answer) {
    localStorage.setItem(this.#key, JSON.stringify([...this.kept, answer]));
    this.flush();
  }

  async flush() {
    if (this.#sending) return;
    this.#sending = true;
    try {
      for (let batch = this.kept.slice(0, 100); batch.length; batch = this.kept.slice(0, 100)) {
        const { outcomes } = await send("/api/judgements", { judgements: batch });
        const settled = new Set(outcomes.map((outcome) => outcome.id));
        localStorage.setItem(this.#key, JSON.stringify(this.kept.filter((answer) => !settled.has(answer.id))));
        for (const outcome of outcomes) if (outcome.status === "refused") this.onrefusal(outcome.reason);
      }
      tell("");
    } catch (error) {
      const waiting = `${this.kept.length} answer${this.kept.length === 1 ? " waits" : "s wait"} in this browser`;
      tell(error.signedOut ? `Your session has ended; ${waiting}. Sign in again in another tab.` : `The server cannot be reached; ${waiting} and will be sent later.`);
      setTimeout(() => this.flush(), 2000);
    } finally {
      this.#sending = false;
    }
  }
}

export const answers = new Answers();

export function tell(sentence) {
  element("net").textContent = sentence;
  element("net").hidden = !sentence;
}
answers.onrefusal = (reason) => setTimeout(() => tell(`An answer was not taken: ${reason}`));

// A clip as something that can be shown at once; or {reason} where there is none.
async function load(item) {
  if (item.text !== undefined) return item;
  for (;;) {
    try {
      const answer = await fetch(item.clip);
      if (answer.headers.get("Content-Type") === "video/mp4") return { ...item, source: URL.createObjectURL(await answer.blob()) };
      const { drawing, reason, detail } = await answer.json();
      if (answer.status !== 429 && !drawing) return { ...item, reason: reason ?? detail };
    } catch { /* the network is gone; it may come back */ }
    await new Promise((wake) => setTimeout(wake, 500));
  }
}

export class Leases {
  #ahead = [];
  #coming = null;
  #fetching = false;
  #shown = new Set();

  constructor(kind, show) {
    this.kind = kind;
    this.show = show;
    this.current = null;
    addEventListener("online", () => { answers.flush(); this.fill(); });
    setInterval(() => { this.fill(); this.#progress(); }, 3000);
    answers.flush();
    this.fill();
    this.#progress();
  }

  async fill() {
    if (this.#fetching || this.#ahead.length > AHEAD / 2) return;
    this.#fetching = true;
    try {
      const mine = [this.current, this.#coming, ...this.#ahead].filter(Boolean).map((lease) => lease.query);
      // What was answered here but has not arrived yet must not be asked again.
      const holding = [...new Set([...mine, ...answers.kept.map((answer) => answer.query)])].slice(0, 64);
      const { leases } = await send("/api/leases", { count: AHEAD - this.#ahead.length, holding, kind: this.kind });
      for (const lease of leases) {
        if (this.#shown.has(lease.query)) continue;
        this.#shown.add(lease.query);
        lease.loaded = Promise.all(lease.order.map((index) => load(lease.items[index]))).then((parts) => { lease.parts = parts; });
        this.#ahead.push(lease);
      }
      if (!this.current && !this.#coming) this.next();
    } catch { /* what is prefetched is enough for a while */ } finally {
      this.#fetching = false;
    }
  }

  // Between two leases `current` is null: a key that is pressed while clips are on their way answers nothing.
  async next() {
    const lease = this.#ahead.shift() ?? null;
    this.current = null;
    this.#coming = lease;
    this.fill();
    if (!lease?.parts) this.show(null);
    if (!lease) return;
    if (!lease.parts) await lease.loaded;
    if (this.#coming !== lease) return;
    this.#coming = null;
    this.current = lease;
    this.#present(lease);
  }

  back(lease) {  // what is on screen comes again after the one that is taken back
    this.#ahead.unshift(...[this.current ?? this.#coming].filter(Boolean));
    this.#coming = null;
    this.current = lease;
    this.#present(lease);
  }

  #present(lease) {
    lease.shownAt = Date.now() / 1000;
    element("waiting").hidden = true;
    element("prompt").textContent = lease.prompt ?? "";
    element("prompt").hidden = !lease.prompt;
    element("guide-list").replaceChildren(...lease.guide.map((sentence) => Object.assign(document.createElement("li"), { textContent: sentence })));
    this.show(lease);
  }

  async #progress() {
    try {
      const lesson = await send("/api/progress");
      const parts = [`${lesson.answered} of ${lesson.budget} answered`];
      if (lesson.budget > lesson.answered && !lesson.finished) parts.push(`about ${time(lesson.seconds_left)} left`);
      if (lesson.steps !== null) parts.push(lesson.finished ? "the agent has practiced to the end" : `the agent has practiced ${lesson.step.toLocaleString("en")} of ${lesson.steps.toLocaleString("en")} steps`);
      element("lesson").textContent = parts.join(" · ");
      element("bar").max = Math.max(lesson.budget, 1);
      element("bar").value = lesson.answered;
      if (this.#coming) {
        element("waiting").textContent = "The clips are being drawn …";
        element("waiting").hidden = false;
      } else if (!this.current) {
        let words = "Nothing to ask right now. New questions appear here by themselves.";
        if (lesson.finished) words = "The lesson is over. Thank you: look at what the agent has learned on the page Teach.";
        else if (lesson.next_session !== null && lesson.step < lesson.next_session) words = `Nothing to ask right now: the agent practices what it has heard. It asks again at about step ${lesson.next_session.toLocaleString("en")}.`;
        element("waiting").textContent = words;
        element("waiting").hidden = false;
      }
    } catch (error) {
      if (error.signedOut) tell("Your session has ended. Sign in again.");
      else if (!answers.kept.length) tell("The server cannot be reached. What is on screen can still be answered.");
    }
  }
}

function time(seconds) {
  return seconds < 90 ? `${Math.max(Math.round(seconds / 10) * 10, 10)} seconds` : `${Math.round(seconds / 60)} minutes`;
}

// The last answer can be taken back: at once, by "unknown", and then by whatever is answered instead.
export class History {
  #given = [];

  record(lease, answer, more = {}) {
    const judgement = {
      id: identifier(), query: lease.query, answer, shown_order: lease.order, shown_at: lease.shownAt, answered_at: Date.now() / 1000,
      supersedes: lease.last ?? null, ...more,
    };
    lease.last = judgement.id;
    this.#given.push(lease);
    if (this.#given.length > 20) for (const part of this.#given.shift().parts) if (part.source) URL.revokeObjectURL(part.source);
    answers.add(judgement);
  }

  undo() {
    const lease = this.#given.pop();
    if (!lease) return null;
    const judgement = { id: identifier(), query: lease.query, answer: "unknown", shown_order: lease.order, supersedes: lease.last };
    lease.last = judgement.id;
    answers.add(judgement);
    return lease;
  }
}

export function typing(event) {
  return event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName);
}
