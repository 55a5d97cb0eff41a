"use strict";
// Pointing at a moment, copying its command, and keeping the page fresh. Without it every fact and
// every command can be had all the same: the server makes them.
(() => {
  const root = document.documentElement;
  const find = (id) => document.getElementById(id);
  const pad = (number) => String(number).padStart(2, "0");
  let asked = 0; // the newest request for a moment; older answers are dropped
  let waiting = null;
  let cursor = null;
  let pin = null;

  root.classList.add("scripted");

  function ticker(at) {
    const iso = new Date(at).toISOString();
    return `${iso.slice(0, 10)} ${iso.slice(11, 19)}Z`;
  }

  function range() {
    const { begin, end, chosen } = find("axis").dataset;
    return { begin: +begin, end: +end, chosen: +chosen };
  }

  // The axis as an input of its own: a slider over time.
  function dress() {
    const axis = find("axis");
    if (!axis) return;
    axis.setAttribute("role", "slider");
    axis.setAttribute("tabindex", "0");
    axis.setAttribute("aria-label", "Moment to restore");
    axis.setAttribute("aria-describedby", "moment-title");
    cursor = axis.appendChild(marker("cursor"));
    cursor.hidden = true;
    pin = axis.appendChild(marker("cursor pinned"));
    place(pin, range().chosen);
    pin.hidden ||= !location.search.includes("time=");
  }

  function marker(name) {
    const line = document.createElement("div");
    line.className = name;
    line.setAttribute("aria-hidden", "true");
    line.appendChild(document.createElement("span"));
    return line;
  }

  function place(line, at) {
    const { begin, end } = range();
    const part = (at - begin) / (end - begin);
    line.hidden = part < 0 || part > 1;
    line.style.left = `${part * 100}%`;
    line.classList.toggle("left", part < 0.15);
    line.classList.toggle("right", part > 0.85);
    line.firstChild.textContent = ticker(at);
    if (line === pin) {
      const axis = find("axis");
      axis.setAttribute("aria-valuemin", Math.round(begin / 1000));
      axis.setAttribute("aria-valuemax", Math.round(end / 1000));
      axis.setAttribute("aria-valuenow", Math.round(at / 1000));
      axis.setAttribute("aria-valuetext", ticker(at));
    }
  }

  function pointed(event) {
    const box = find("axis").getBoundingClientRect();
    const { begin, end } = range();
    const part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
    const y = event.clientY - box.top;
    const lane = [...document.querySelectorAll("#axis .lane")].find(
      (one) => y >= +one.dataset.top && y < +one.dataset.bottom,
    );
    return { at: begin + part * (end - begin), timeline: lane ? lane.dataset.timeline : "" };
  }

  function choose(at, timeline) {
    const axis = find("axis");
    const now = Date.parse(document.querySelector("#state time").dateTime);
    at = Math.round(Math.min(at, now));
    axis.dataset.chosen = at;
    place(pin, at);
    const query = new URLSearchParams(location.search);
    query.set("time", new Date(at).toISOString());
    if (timeline) query.set("timeline", timeline);
    else query.delete("timeline");
    if (query.get("span") && !query.get("end")) {
      query.set("end", new Date(range().end).toISOString());
    }
    history.replaceState(null, "", `?${query}`);
    find("time").value = new Date(at).toISOString().slice(0, 23).replace("T", " ");
    find("choose").elements.timeline.value = timeline || "";
    clearTimeout(waiting);
    waiting = setTimeout(show, 120);
  }

  async function show() {
    const number = ++asked;
    const text = await get(`/moment${location.search}`);
    if (text === null || number !== asked) return;
    const panel = new DOMParser().parseFromString(text, "text/html").getElementById("moment");
    if (panel) find("moment").replaceWith(panel);
    enrich();
  }

  async function get(address) {
    try {
      const answer = await fetch(address, { cache: "no-store" });
      root.classList.toggle("stale", !answer.ok && answer.status >= 500);
      return answer.ok ? await answer.text() : null;
    } catch {
      root.classList.add("stale");
      return null;
    }
  }

  // What only a browser knows: its own time zone, and a clipboard.
  function enrich() {
    document.querySelectorAll(".copy").forEach((button) => (button.hidden = false));
    const title = document.querySelector("#moment h3");
    const shown = title && title.querySelector("time");
    if (!shown || title.querySelector(".local")) return;
    const at = new Date(shown.dateTime);
    if (at.getTimezoneOffset() === 0) return;
    const local = document.createElement("span");
    local.className = "local";
    local.textContent = `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())} here`;
    title.appendChild(local);
  }

  async function copy(button) {
    const source = find(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }

  async function refresh() {
    if (document.hidden) return;
    const text = await get(location.pathname + location.search);
    if (text === null || document.hidden || !getSelection().isCollapsed) return;
    const fresh = new DOMParser().parseFromString(text, "text/html");
    if (!find("axis") && fresh.getElementById("axis")) {
      location.reload(); // the repository had not been read yet
      return;
    }
    document.title = fresh.title;
    for (const old of document.querySelectorAll("[data-live], #state")) {
      const young = fresh.getElementById(old.id);
      if (young) renew(old, young);
    }
    if (!location.search.includes("time=") && fresh.getElementById("moment")) {
      find("moment")?.replaceWith(fresh.getElementById("moment"));
    }
    enrich();
  }

  function renew(old, young) {
    const focused = old.contains(document.activeElement) && document.activeElement !== old;
    if (focused) return; // somebody reads there by keyboard
    const open = [...old.querySelectorAll("details[open]")].map((one) => one.id);
    const scrolled = [...old.querySelectorAll(".wide")].map((one) => one.scrollLeft);
    old.replaceChildren(...young.childNodes);
    old.querySelectorAll("details").forEach((one) => (one.open = open.includes(one.id)));
    old.querySelectorAll(".wide").forEach((one, index) => (one.scrollLeft = scrolled[index] || 0));
    for (const name of ["begin", "end"]) {
      if (name in young.dataset) old.dataset[name] = young.dataset[name];
    }
    if (old.id !== "axis") return;
    if (!location.search.includes("time=")) old.dataset.chosen = young.dataset.chosen;
    dress();
  }

  const KEYS = { ArrowLeft: -1, ArrowRight: 1, PageDown: -20, PageUp: 20 };

  function key(event) {
    const { begin, end, chosen } = range();
    const lanes = [...document.querySelectorAll("#axis .lane")].map((one) => one.dataset.timeline);
    const timeline = find("choose").elements.timeline.value;
    let at = chosen;
    if (event.key in KEYS) at += (KEYS[event.key] * (event.shiftKey ? 10 : 1) * (end - begin)) / 400;
    else if (event.key === "Home") at = begin;
    else if (event.key === "End") at = end;
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const step = event.key === "ArrowUp" ? -1 : 1;
      const from = lanes.indexOf(timeline || find("moment").dataset.timeline);
      const to = Math.min(Math.max(from + step, 0), lanes.length - 1);
      event.preventDefault();
      choose(at, lanes[to]);
      return;
    } else return;
    event.preventDefault();
    choose(Math.min(Math.max(at, begin), end), timeline);
  }

  const inside = (event) => event.target.closest?.("#axis");
  let dragging = false;
  document.addEventListener("pointerdown", (event) => {
    if (!inside(event) || event.button !== 0) return;
    dragging = true;
    const { at, timeline } = pointed(event);
    choose(at, timeline);
  });
  document.addEventListener("pointermove", (event) => {
    if (!cursor) return;
    const over = inside(event);
    cursor.hidden = true;
    if (!over && !dragging) return;
    const { at, timeline } = pointed(event);
    if (dragging) choose(at, timeline);
    else place(cursor, at);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    document.addEventListener(name, () => (dragging = false));
  }
  document.addEventListener("keydown", (event) => {
    if (event.target.id === "axis" && !event.ctrlKey && !event.metaKey && !event.altKey) key(event);
  });
  document.addEventListener("click", (event) => {
    if (event.target.matches?.(".copy")) copy(event.target);
  });
  document.addEventListener("visibilitychange", refresh);
  setInterval(refresh, 1000 * document.body.dataset.refreshS);
  dress();
  enrich();
})();
