"use strict";
(() => {
  const place = document.body.dataset.live;
  const state = document.getElementById("live");
  const source = new EventSource(`${place}events`);
  let shown = Number(document.body.dataset.view);
  let wanted = shown;
  let busy = false;

  source.addEventListener("view", (event) => {
    say("live");
    wanted = Math.max(wanted, Number(event.data));
    update();
  });
  source.addEventListener("open", () => say("live"));
  source.addEventListener("error", () => say("connection lost, trying again"));
  document.addEventListener("visibilitychange", update);

  // One at a time, and none for a page nobody looks at.
  async function update() {
    if (busy || document.hidden || wanted <= shown) return;
    busy = true;
    try {
      const answer = await fetch(`${place}update`);
      if (!answer.ok) throw new Error(answer.status);
      const view = await answer.json();
      await replace(view);
      shown = view.version;
      wanted = Math.max(wanted, shown);
    } catch {
      say("connection lost, trying again");
    } finally {
      busy = false;
    }
    if (wanted > shown) setTimeout(update, 500);
  }

  // What the reader has opened, focused and scrolled to stays so.
  async function replace(view) {
    const page = document.getElementById("content");
    const opened = [...page.querySelectorAll("details[open]")].map((details) => details.id);
    const heights = [...page.querySelectorAll("[data-chart]")].map((chart) => [chart.dataset.chart, chart.offsetHeight]);
    const focused = page.contains(document.activeElement) ? name(document.activeElement) : null;
    const top = window.scrollY;
    page.innerHTML = view.html;
    for (const [chart, height] of heights) {
      const drawn = page.querySelector(`[data-chart="${CSS.escape(chart)}"]`);
      if (drawn) drawn.style.minHeight = `${height}px`;
    }
    for (const id of opened) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
    window.scrollTo({ top, behavior: "instant" });
    await window.gradiometer.draw(view.specs);
    if (focused) page.querySelector(focused)?.focus({ preventScroll: true });
  }

  function name(element) {
    if (element.name) return `[name="${CSS.escape(element.name)}"]`;
    if (element.tagName === "SUMMARY") return `#${CSS.escape(element.parentElement.id)} > summary`;
    const figure = element.closest("figure[id]");
    if (figure) return `#${CSS.escape(figure.id)} ${element.tagName.toLowerCase()}`;
    return element.getAttribute("href") ? `a[href="${CSS.escape(element.getAttribute("href"))}"]` : null;
  }

  function say(words) {
    if (state.textContent !== words) state.textContent = words;
    state.classList.toggle("lost", words !== "live");
  }
})();
