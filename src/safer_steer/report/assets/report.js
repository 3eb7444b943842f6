"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const entries = [...document.querySelectorAll("details.dialogue")];
  const form = byId("filters");
  const value = (id) => (byId(id) ? byId(id).value : "");
  const last = document.querySelectorAll("input[name=column]").length - 1;
  const texts = new Map();
  let current = -1;

  const textOf = (entry) => {
    if (!texts.has(entry)) texts.set(entry, entry.textContent.toLowerCase());
    return texts.get(entry);
  };

  const failedAs = (entry, wanted) => {
    const failed = entry.dataset.failed ? entry.dataset.failed.split(" ") : [];
    const [first, final] = [failed.includes("0"), failed.includes(String(last))];
    if (wanted === "") return true;
    if (wanted === "none") return failed.length === 0;
    if (wanted === "mended") return first && !final;
    if (wanted === "broken") return final && !first;
    return failed.includes(wanted);
  };

  const filter = () => {
    const words = value("q").toLowerCase().split(/\s+/).filter(Boolean);
    const [protocol, kind, failed] = [value("protocol"), value("kind"), value("failed")];
    let count = 0;
    for (const entry of entries) {
      const fits =
        (!protocol || entry.dataset.protocol === protocol) &&
        (!kind || entry.dataset.kind === kind) &&
        failedAs(entry, failed) &&
        words.every((word) => textOf(entry).includes(word));
      entry.hidden = !fits;
      count += fits;
    }
    byId("shown").textContent = `${count} of ${entries.length}`;
  };

  const columns = () => {
    for (const box of document.querySelectorAll("input[name=column]")) {
      for (const part of document.querySelectorAll(`#list [data-column="${box.value}"]`)) part.hidden = !box.checked;
    }
  };

  const show = (entry, open) => {
    for (const marked of document.querySelectorAll("details.current")) marked.classList.remove("current");
    current = entries.indexOf(entry);
    entry.classList.add("current");
    if (open !== undefined) entry.open = open;
    entry.querySelector("summary").focus({ preventScroll: true });
  };

  const step = (by) => {
    let next = current + by;
    while (entries[next] && entries[next].hidden) next += by;
    if (!entries[next]) return;
    const wasOpen = current >= 0 && entries[current].open;
    if (wasOpen) entries[current].open = false;
    show(entries[next], wasOpen ? true : undefined);
    entries[next].scrollIntoView({ block: wasOpen ? "start" : "nearest" });
  };

  const follow = () => {
    const target = location.hash.length > 1 ? byId(decodeURIComponent(location.hash.slice(1))) : null;
    const entry = target && target.closest("details.dialogue");
    if (!entry) return;
    entry.hidden = false;
    show(entry, true);
    target.scrollIntoView();
  };

  const keys = {
    j: () => step(1),
    k: () => step(-1),
    o: () => current >= 0 && (entries[current].open = !entries[current].open),
    "/": () => byId("q").focus(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") document.activeElement.blur();
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  for (const entry of entries) entry.addEventListener("click", () => (current = entries.indexOf(entry)));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => (event.target.name === "column" ? columns() : filter()));
  window.addEventListener("hashchange", follow);
  form.hidden = false;
  filter();
  follow();
})();
