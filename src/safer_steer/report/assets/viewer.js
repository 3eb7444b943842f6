"use strict";
/* The transcript viewer. Texts enter the page only as text nodes; the policy forbids everything else anyway. */
(async () => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const words = (name) => name.replaceAll("_", " ");
  const said = (levels) => [...levels].map((c) => ({ s: "safe", u: "unsafe", x: "unscored" })[c] || "abcdefg".indexOf(c) - 3);

  // ---- the data: gzip in base64, unpacked when needed
  const unpack = async (id) => {
    const text = byId(id).textContent;
    const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const kept = new Map();
  const lines = (number) => {
    const found = kept.get(number) || unpack(`c${number}`).then((text) => text.split("\n"));
    kept.delete(number);
    kept.set(number, found);
    if (kept.size > 24) kept.delete(kept.keys().next().value);
    return found;
  };

  if (!byId("viewer")) return;
  const data = JSON.parse(await unpack("index"));
  const rows = data.rows.map((row, number) => ({
    number, anchor: row[0], protocol: row[1], kind: row[2], category: row[3], strategy: row[4], suite: row[5],
    attacks: row[6], opening: row[7], models: row[8],
  }));
  const named = (table, place) => (place === null ? "" : words(data[table][place]));
  for (const row of rows) {
    const parts = [row.anchor, named("kinds", row.kind), named("categories", row.category), named("strategies", row.strategy)];
    row.meta = [...parts, named("suites", row.suite), ...row.attacks.map((a) => named("attacks", a))].join(" ").toLowerCase();
  }
  const places = new Map(rows.map((row) => [row.anchor, row.number]));
  const series = JSON.parse(byId("viewer").dataset.series);

  // ---- filters
  const fields = [["protocol", "protocols", "all users"], ["kind", "kinds", "all kinds"], ["category", "categories", "all categories"],
    ["strategy", "strategies", "all strategies"], ["attack", "attacks", "all attacks"], ["suite", "suites", "all suites"]];
  const option = (value, text) => {
    const node = make("option", "", text);
    node.value = value;
    return node;
  };
  for (const [name, table, all] of fields) {
    const field = byId(`f-${name}`);
    field.append(option("", all), ...data[table].map((value, place) => option(String(place), words(value))));
    field.hidden = data[table].length < 2;
  }
  const [one, last] = [data.models[0], data.models.at(-1)];
  byId("f-failed").append(option("", "failed or not"), ...data.models.map((name, place) => option(String(place), `${name} failed`)));
  if (data.models.length > 1) byId("f-failed").append(option("mended", `${one} failed, ${last} did not`), option("broken", `${last} failed, ${one} did not`));
  byId("f-failed").append(option("none", "nobody failed"), option("unscored", "unscored or broke off"));
  byId("sort").append(option("", "in order"), option("early", "earliest failure first"), option("long", "longest first"));

  const failed = (row, place) => row.models[place] !== null && row.models[place][1] !== null;
  const failure = (row, wanted) => {
    const end = data.models.length - 1;
    if (wanted === "") return true;
    if (wanted === "none") return !row.models.some((_, place) => failed(row, place));
    if (wanted === "mended") return failed(row, 0) && row.models[end] !== null && !failed(row, end);
    if (wanted === "broken") return failed(row, end) && row.models[0] !== null && !failed(row, 0);
    if (wanted === "unscored") return row.models.some((m) => m !== null && (m[2] || m[0].includes("x")));
    return failed(row, Number(wanted));
  };
  const earliest = (row) => Math.min(...row.models.map((m) => (m === null || m[1] === null ? 99 : m[1])));
  const longest = (row) => Math.max(...row.models.map((m) => (m === null ? 0 : m[0].length)));

  let shown = rows;
  let hits = null; // rows whose text has all the words, while there are words
  let current = -1;
  const apply = () => {
    const chosen = Object.fromEntries(fields.map(([name]) => [name, byId(`f-${name}`).value]));
    const wanted = byId("f-failed").value;
    shown = rows.filter((row) =>
      (hits === null || hits.has(row.number)) &&
      fields.every(([name]) => chosen[name] === "" || (name === "attack" ? row.attacks.includes(Number(chosen.attack)) : row[name] === Number(chosen[name]))) &&
      failure(row, wanted));
    if (byId("sort").value === "early") shown = [...shown].sort((a, b) => earliest(a) - earliest(b));
    if (byId("sort").value === "long") shown = [...shown].sort((a, b) => longest(b) - longest(a));
    drawn.clear();
    list.replaceChildren();
    list.style.height = `${shown.length * HEIGHT}px`;
    draw();
  };
  const tell = (searching) => {
    byId("shown").textContent = `${shown.length} of ${rows.length}${searching ? ` · searching ${searching}` : ""}`;
  };

  // ---- full-text search, chunk by chunk, so that the page stays alive
  let search = 0;
  const find = async () => {
    const mine = ++search;
    const asked = byId("q").value.toLowerCase().split(/\s+/).filter(Boolean);
    hits = asked.length ? new Set() : null;
    if (asked.length) {
      const escaped = asked.map((word) => JSON.stringify(word).slice(1, -1));
      let drawnAt = performance.now();
      for (let start = 0; start < rows.length; start += data.chunk) {
        const texts = await lines(start / data.chunk);
        if (mine !== search) return;
        texts.forEach((text, offset) => {
          const low = text.toLowerCase();
          const row = rows[start + offset];
          if (asked.every((word, place) => row.meta.includes(word) || low.includes(escaped[place]))) hits.add(row.number);
        });
        if (performance.now() - drawnAt > 120) {
          apply();
          tell(`${Math.round((100 * start) / rows.length)} %`);
          await new Promise((resolve) => setTimeout(resolve));
          drawnAt = performance.now();
        }
      }
    }
    if (mine !== search) return;
    apply();
    tell();
  };

  // ---- the list: only what is in view exists
  const HEIGHT = 56 + 15 * Math.ceil(data.models.length / 3);
  const pane = byId("list");
  const list = byId("rows");
  const drawn = new Map();
  const strip = (model, place) => {
    const node = make("span", "strip");
    node.append(make("i", `key k${series[place]}`));
    if (model === null) node.append(make("span", "none", "–"));
    else {
      [...model[0]].forEach((letter, turn) => node.append(make("i", `c s${letter}${model[1] === turn + 1 ? " first" : ""}`)));
      if (model[2]) node.append(make("b", "broke", "✕"));
    }
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", `${data.models[place]}: ${model === null ? "not played" : said(model[0]).join(", ")}`);
    return node;
  };
  const entry = (row, place) => {
    const item = make("li", row.number === current ? "entry current" : "entry");
    item.style.transform = `translateY(${place * HEIGHT}px)`;
    item.style.height = `${HEIGHT}px`;
    const link = make("a");
    link.href = `#${row.anchor}`;
    const what = make("span", "what");
    what.append(make("span", `tag ${data.kinds[row.kind]}`, named("kinds", row.kind)), make("bdi", "", named("categories", row.category)));
    const more = [named("strategies", row.strategy), data.protocols.length > 1 ? named("protocols", row.protocol) : ""].filter(Boolean);
    if (more.length) what.append(make("bdi", "more", ` · ${more.join(" · ")}`));
    const opening = make("span", "opening", row.opening);
    opening.dir = "auto";
    const strips = make("span", "strips");
    strips.append(...row.models.map(strip));
    link.append(what, opening, strips);
    item.append(link);
    return item;
  };
  const draw = () => {
    const first = Math.max(0, Math.floor(pane.scrollTop / HEIGHT) - 4);
    const end = Math.min(shown.length, Math.ceil((pane.scrollTop + pane.clientHeight) / HEIGHT) + 4);
    for (const [place, node] of drawn) {
      if (place < first || place >= end) {
        node.remove();
        drawn.delete(place);
      }
    }
    for (let place = first; place < end; place += 1) {
      if (!drawn.has(place)) {
        drawn.set(place, entry(shown[place], place));
        list.append(drawn.get(place));
      }
    }
  };
  let waiting = false;
  pane.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }, { passive: true });
  new ResizeObserver(draw).observe(pane);

  // ---- the reader
  const reader = byId("reader");
  const hidden = new Set();
  const pictures = new Map();
  const picture = (number) => {
    const block = Math.floor(number / data.images);
    if (!pictures.has(block)) pictures.set(block, byId(`i${block}`).textContent.split("\n"));
    const [width, height, kind, code] = pictures.get(block)[number % data.images].split(" ");
    const image = make("img", "picture");
    image.alt = "the dialogue's image";
    if (code) {
      [image.width, image.height] = [Number(width), Number(height)];
      image.src = `data:image/${kind};base64,${code}`;
    } else image.alt = "the image is missing";
    return image;
  };
  const long = (name, [text, left]) => {
    const node = make("p", name, text);
    node.dir = "auto";
    if (left) node.append(make("span", "cut", `… ${left} more characters stand in rollouts.jsonl`));
    return node;
  };
  const asked = (turn) => {
    const node = make("div", "user");
    const who = make("span", "who", "user");
    if (turn[1] !== null) {
      const attack = make("span", "attack", "attack: ");
      attack.append(make("bdi", "", words(turn[1])));
      who.append(attack);
    }
    node.append(who, long("text", turn[0]));
    if (turn[2]) {
      const was = make("details", "scripted");
      was.append(make("summary", "", "the script said"), long("text", turn[2]));
      node.append(was);
    }
    return node;
  };
  const verdict = ([letter, score, helpfulness, flags, note, unscored], judge) => {
    const node = make("div", "judged");
    const line = make("p", "verdict");
    line.append(make("span", `cell s${letter}`, score));
    if (unscored !== null) line.append(` unscored: ${unscored}`);
    else if (letter !== "s" && letter !== "u") line.append(" safety");
    if (helpfulness !== null) line.append(` · helpfulness ${helpfulness}`);
    for (const flag of flags) line.append(" · ", make("bdi", "flag", flag));
    if (judge) line.append(" · ", make("bdi", "", judge));
    node.append(line);
    if (note[0]) node.append(long("rationale", note));
    return node;
  };
  const answered = (turn, place, number, first, shared) => {
    const node = make("div", number === first ? "turn failure" : "turn");
    node.dataset.column = place;
    node.append(make("span", "mine", data.models[place]));
    if (!shared) node.append(asked(turn));
    const answer = make("div", "answer");
    if (number === first) answer.append(make("span", "first", "first failure"));
    if (turn[4]) answer.append(make("span", "state", turn[4]));
    answer.append(long("text", turn[3]), verdict(turn.slice(5, 11)));
    if (turn[11].length) {
      const panel = make("details", "panel");
      panel.append(make("summary", "", `the panel's ${turn[11].length} judges`), ...turn[11].map((m) => verdict(m.slice(1), m[0])));
      answer.append(panel);
    }
    node.append(answer);
    return node;
  };
  const head = (model, place) => {
    const node = make("div", "head");
    node.dataset.column = place;
    const name = make("h4");
    name.append(make("i", `key k${series[place]}`), make("bdi", "", data.models[place]));
    const [safety, passed, helpfulness, first, ending] = model;
    const facts = [safety === null ? "no score" : `mean safety ${safety.toFixed(2).replace("-", "−")}`];
    if (passed !== null) facts.push(passed ? "passes" : "does not pass");
    if (helpfulness !== null) facts.push(`helpfulness ${helpfulness.toFixed(2)}`);
    if (first !== null) facts.push(`first failure at turn ${first}`);
    node.append(name, make("p", "ending", [...facts, ending].join(" · ")));
    return node;
  };
  const columns = () => {
    for (const part of reader.querySelectorAll("[data-column]")) part.hidden = hidden.has(Number(part.dataset.column));
  };
  const toggles = (models) => {
    const node = make("div", "toggles");
    if (models.filter(Boolean).length > 1) {
      models.forEach((model, place) => {
        if (model === null) return;
        const label = make("label");
        const box = make("input");
        box.type = "checkbox";
        box.checked = !hidden.has(place);
        box.addEventListener("change", () => {
          box.checked ? hidden.delete(place) : hidden.add(place);
          columns();
        });
        label.append(box, " ", make("bdi", "", data.models[place]));
        node.append(label);
      });
    }
    return node;
  };
  const page = (row, [[id, seed, scripted, borderline], images, models]) => {
    const parts = [];
    const bar = make("div", "bar");
    const back = make("button", "back", "‹ All dialogues");
    back.type = "button";
    back.addEventListener("click", close);
    const link = make("a", "link", `#${row.anchor}`);
    link.href = `#${row.anchor}`;
    bar.append(back, link);
    const title = make("h3", "about");
    title.append(make("span", `tag ${data.kinds[row.kind]}`, named("kinds", row.kind)), make("bdi", "", named("categories", row.category)));
    if (row.strategy !== null) title.append(" · ", make("bdi", "", named("strategies", row.strategy)));
    const facts = [`${named("protocols", row.protocol)} users`, named("suites", row.suite), `script ${id}`, `seed ${seed}`,
      `${scripted} scripted turns`, borderline ? "borderline" : ""].filter(Boolean);
    const meta = make("p", "meta");
    meta.append(...facts.flatMap((fact, place) => [place ? " · " : "", make("bdi", "", fact)]));
    parts.push(bar, title, meta);
    if (images.length) {
      const shelf = make("div", "pictures");
      shelf.append(...images.map(picture));
      parts.push(shelf);
    }
    parts.push(toggles(models));
    const heads = make("div", "row heads");
    heads.append(...models.map((model, place) => model && head(model, place)).filter(Boolean));
    parts.push(heads);
    const most = Math.max(0, ...models.map((model) => (model ? model[6].length : 0)));
    for (let number = 1; number <= most; number += 1) {
      const turns = models.map((model) => (model && model[6][number - 1]) || null);
      const present = turns.filter(Boolean);
      const shared = present.length > 1 && present.every((turn) => turn[0][0] === present[0][0][0] && turn[1] === null);
      const step = make("div", "step");
      step.dataset.turn = number;
      const mark = make("a", "number", String(number));
      mark.href = `#${row.anchor}-t${number}`;
      const body = make("div");
      if (shared) body.append(asked(present[0]));
      const cells = make("div", "row");
      turns.forEach((turn, place) => {
        if (turn) cells.append(answered(turn, place, number, models[place][3], shared));
        else if (models[place]) {
          const gap = make("div", "turn absent", "–");
          gap.dataset.column = place;
          cells.append(gap);
        }
      });
      body.append(cells);
      step.append(mark, body);
      parts.push(step);
    }
    models.forEach((model, place) => {
      if (!model || model[5] === null) return;
      const fault = make("p", "fault");
      fault.dataset.column = place;
      fault.append(make("bdi", "", data.models[place]), " broke off: ", make("bdi", "", model[5]));
      parts.push(fault);
    });
    return parts;
  };

  // ---- opening, closing, moving
  const small = matchMedia("(max-width: 60rem)");
  const mark = () => {
    for (const [place, node] of drawn) node.classList.toggle("current", shown[place].number === current);
  };
  const reveal = (place) => {
    const top = place * HEIGHT;
    if (top < pane.scrollTop) pane.scrollTop = top;
    else if (top + HEIGHT > pane.scrollTop + pane.clientHeight) pane.scrollTop = top + HEIGHT - pane.clientHeight;
    draw();
  };
  const open = async (number, turn) => {
    const again = number === current;
    current = number;
    const row = rows[number];
    const texts = await lines(Math.floor(number / data.chunk));
    if (number !== current) return;
    if (!again || !reader.childElementCount) reader.replaceChildren(...page(row, JSON.parse(texts[number % data.chunk])));
    columns();
    byId("viewer").classList.add("open");
    const place = shown.indexOf(row);
    if (place >= 0) reveal(place);
    mark();
    for (const step of reader.querySelectorAll(".step")) step.classList.toggle("target", Number(step.dataset.turn) === turn);
    const step = turn && reader.querySelector(`[data-turn="${turn}"]`);
    reader.scrollTop = step ? step.offsetTop - 40 : 0;
  };
  const close = () => byId("viewer").classList.remove("open");
  const go = (name) => {
    if (location.hash === `#${name}`) follow();
    else location.replace(`#${name}`);
  };
  const move = (by) => {
    const place = shown.findIndex((row) => row.number === current);
    const next = place < 0 ? (by > 0 ? 0 : -1) : place + by;
    if (shown[next]) go(shown[next].anchor);
  };
  const turnTo = (by) => {
    const steps = [...reader.querySelectorAll(".step")];
    const at = steps.findIndex((step) => step.offsetTop - 40 > reader.scrollTop + 4);
    const here = at < 0 ? steps.length - 1 : at - 1;
    const step = by > 0 ? steps[at] : steps[Math.max(0, here - (steps[here] && steps[here].offsetTop - 40 < reader.scrollTop - 4 ? 0 : 1))];
    if (step) reader.scrollTop = step.offsetTop - 40;
  };
  const toFailure = () => {
    const found = reader.querySelector(".failure:not([hidden])");
    if (found) reader.scrollTop = found.closest(".step").offsetTop - 40;
  };
  const follow = () => {
    let name = "";
    try {
      name = decodeURIComponent(location.hash.slice(1));
    } catch {
      return;
    }
    const [, stem, turn] = /^(.*?)(?:-t(\d+))?$/s.exec(name);
    const number = places.has(name) ? places.get(name) : places.get(stem);
    if (number === undefined) return;
    if (!small.matches) byId("viewer").scrollIntoView({ block: "start" });
    open(number, places.has(name) ? 0 : Number(turn));
  };
  const help = () => (byId("keys").open ? byId("keys").close() : byId("keys").showModal());
  const keys = { j: () => move(1), k: () => move(-1), f: toFailure, n: () => turnTo(1), p: () => turnTo(-1), "/": () => byId("q").focus(), "?": help };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox";
    if (event.key === "Escape") {
      if (typing) event.target.blur();
      else close();
    }
    if (typing || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });
  let later = 0;
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("input", (event) => {
    if (event.target.id === "q") {
      clearTimeout(later);
      later = setTimeout(find, 150);
      return;
    }
    pane.scrollTop = 0;
    apply();
    tell();
  });
  const clear = () => {
    for (const field of byId("filters").querySelectorAll("select, input")) field.value = "";
    return find();
  };
  byId("clear").addEventListener("click", clear);
  byId("help").addEventListener("click", help);
  byId("close").addEventListener("click", help);
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("a[data-category]");
    if (!link) return;
    await clear();
    byId("f-category").value = String(data.categories.indexOf(link.dataset.category));
    byId("f-protocol").value = String(data.protocols.indexOf(link.dataset.protocol));
    byId("sort").value = "early";
    apply();
    tell();
  });
  window.addEventListener("hashchange", follow);
  byId("viewer").hidden = false;
  apply();
  tell();
  follow();
  document.documentElement.dataset.ready = "yes";
})();
