// Enhances pages that are readable without it: lists that follow the log, and the output of a running job.
// A page names in data-live what to watch: a pattern of types, and perhaps a subject.
"use strict";

const main = document.getElementById("content");

function fresh(position) {
  const url = new URL(location.href);
  url.searchParams.set("at_least", position);
  return fetch(url, { headers: { Accept: "text/html" } }).then((answer) => {
    if (!answer.ok || answer.redirected) throw new Error(String(answer.status));
    return answer.text();
  });
}

function busy(region) {
  return region.contains(document.activeElement) && /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
}

function exchange(text) {
  const page = new DOMParser().parseFromString(text, "text/html");
  for (const region of main.querySelectorAll("[data-region]")) {
    const next = page.querySelector(`[data-region="${region.dataset.region}"]`);
    if (!next || busy(region) || next.innerHTML === region.innerHTML) continue;
    for (const [index, details] of region.querySelectorAll("details").entries()) {
      const same = next.querySelectorAll("details")[index];
      if (same) same.open = details.open;
    }
    region.replaceWith(document.adoptNode(next));
  }
  mark(true);
}

function mark(on) {
  const found = main.querySelector(".live-mark");
  if (found) found.hidden = !on;
}

function follow() {
  const [type, subject] = main.dataset.live.trim().split(/\s+/);
  if (!type || !main.dataset.position || new URLSearchParams(location.search).has("cursor")) return;
  const query = new URLSearchParams({ type, from: main.dataset.position });
  if (subject) query.set("subject", subject);
  const source = new EventSource(`/api/v1/events/stream?${query}`);
  let wanted = "", waiting = false;
  const refresh = () => {
    if (document.hidden) return;
    const position = wanted;
    wanted = "";
    fresh(position).then(exchange).catch(() => mark(false)).finally(() => {
      waiting = false;
      if (wanted) plan();
    });
  };
  // at most one look a second, however fast events come
  const plan = () => {
    if (waiting) return;
    waiting = true;
    setTimeout(refresh, 250 + Math.random() * 750);
  };
  source.onopen = () => mark(true);
  source.onerror = () => mark(false);
  source.onmessage = (event) => {
    wanted = event.lastEventId;
    plan();
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && waiting) refresh();
  });
}

function output() {
  const box = document.getElementById("output");
  if (!box || !box.dataset.stream) return;
  const source = new EventSource(`${box.dataset.stream}?after=${box.dataset.last}`);
  source.onmessage = (event) => {
    const line = JSON.parse(event.data);
    const low = box.scrollHeight - box.scrollTop - box.clientHeight < 30;
    const text = document.createElement("span");
    if (line.stream === "e") text.className = "e";
    text.textContent = line.text + "\n";
    box.append(text);
    document.getElementById("output-none").hidden = true;
    if (low) box.scrollTop = box.scrollHeight;
  };
  source.addEventListener("end", () => source.close());
}

if (main) {
  follow();
  output();
}
