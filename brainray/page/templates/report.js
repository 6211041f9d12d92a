"use strict";
(() => {
  const main = document.querySelector("main");
  const earlierKey = main.dataset.answers; // of versions that kept answers by URI alone
  const storageKey = `${earlierKey}-by-content`;
  const classes = JSON.parse(main.dataset.classes);
  const tiles = [...document.querySelectorAll(".tile[data-uri]")];
  const tileOf = new Map(tiles.map((tile) => [tile.dataset.uri, tile]));
  const bar = document.getElementById("answers");
  const findable = [...document.querySelectorAll("[data-find]")].map((each) => {
    const titles = [...each.querySelectorAll("[title]")].map((inner) => inner.title);
    return [each, [each.dataset.uri || "", ...titles, each.textContent].join("\n").toLowerCase()];
  });
  let kept = { who: "", answers: {} };
  let lasting = true;

  /* Several tabs may show this page: what is stored counts, and each change is made to that and to nothing older. */
  let text = null; // of `kept`, as it is stored
  const load = () => {
    if (!lasting) return;
    try {
      const found = localStorage.getItem(storageKey);
      if (found === text || found === null) return;
      const value = JSON.parse(found);
      if (value?.answers && typeof value.answers === "object") [kept, text] = [value, found];
    } catch { lasting = false; }
  };
  const change = (act) => {
    load();
    act(kept);
    text = JSON.stringify(kept);
    try { localStorage.setItem(storageKey, text); } catch { lasting = false; }
  };
  const make = (tag, values = {}, ...inside) => {
    const made = Object.assign(document.createElement(tag), values);
    made.append(...inside);
    return made;
  };

  /* An answer is {answer, label, when, predicted, who}; `label` is the class that the person names, "" for none;
     earlier versions did not keep the last two. It is of these bytes of the image: where other bytes are scored under its name,
     it is none. Bytes that were not read have no hash. */
  const place = (tile) => `${tile.dataset.content} ${tile.dataset.uri}`;
  const given = (tile) => kept.answers[place(tile)];
  const answer = (tile, kind, label) => {
    change(({ answers }) => {
      if (kind) answers[place(tile)] = { answer: kind, label, when: new Date().toISOString(), predicted: tile.dataset.predicted, who: kept.who };
      else delete answers[place(tile)];
    });
    show(tile);
    const name = tile.querySelector(".name bdi").textContent;
    tell(`${name}: ${kind ? `${kind.replace("_", " ")}${label && kind !== "right" ? `, ${label}` : ""}` : "no answer"}. `);
  };
  const right = (tile) => answer(tile, "right", tile.dataset.predicted);
  const wrong = (tile, label) =>
    label === tile.dataset.predicted ? right(tile) : answer(tile, "wrong", label);

  /* An image without a prediction cannot be right or wrong. */
  const scored = (tile) => tile.dataset.predicted !== undefined;

  const controls = new Map();
  const OPEN = "\0"; // of the choice that is no answer; no class is called so
  const equip = (tile) => {
    /* Tab goes from tile to tile, as each answer has a key; Enter goes into a tile, whose answers are then stops, too. */
    const button = (text, key, kind, act) => {
      const made = make("button", { type: "button", textContent: text, title: `key ${key}`, tabIndex: -1 });
      made.addEventListener("click", () => act(tile));
      made.dataset.kind = kind;
      return made;
    };
    const select = make("select", { tabIndex: -1, title: "wrong: which class it is (keys 1 to 9, W)" });
    select.setAttribute("aria-label", "Wrong: which class it is");
    select.append(make("option", { value: OPEN, textContent: "Wrong …" }), make("option", { value: "", textContent: "unclear" }));
    for (const kind of ["focus", "pointerdown"]) select.addEventListener(kind, () => fill(tile, select));
    select.addEventListener("change", () => (select.value === OPEN ? answer(tile, "", "") : wrong(tile, select.value)));
    const group = make("div", { className: "answer" },
      ...(scored(tile) ? [button("Right", "R", "right", right), select] : []),
      button("Skip", "S", "skip", (t) => answer(t, "skip", "")),
      button("No such image", "N", "no_image", (t) => answer(t, "no_image", "")));
    tile.querySelector("img")?.addEventListener("click", () => tile.classList.toggle("big"));
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", "Your answer");
    group.addEventListener("focusin", () => reach(group, 0));
    group.addEventListener("focusout", () => reach(group, -1));
    tile.append(group);
    controls.set(tile, { group, select });
    show(tile);
  };
  const reach = (group, tabIndex) => { for (const each of group.children) each.tabIndex = tabIndex; };
  /* A model may have a thousand classes: they are listed where somebody asks for them. */
  const fill = (tile, select) => {
    if (select.options.length > 2) return;
    for (const name of classes) if (name !== tile.dataset.predicted) select.append(make("option", { value: name, textContent: name }));
  };
  const show = (tile) => {
    const { group, select } = controls.get(tile);
    const it = given(tile);
    for (const each of group.querySelectorAll("button")) each.setAttribute("aria-pressed", String(!!it && each.dataset.kind === it.answer));
    if (it && it.answer === "wrong") fill(tile, select);
    select.value = it && it.answer === "wrong" ? it.label : OPEN;
    select.classList.toggle("chosen", !!it && it.answer === "wrong");
    tile.classList.toggle("answered", !!it);
  };

  const count = make("b");
  count.setAttribute("role", "status");
  const note = make("p");
  const tell = (last = "") => {
    const unshown = [...others].filter((uri) => !tileOf.has(uri) || !given(tileOf.get(uri))).length;
    const here = tiles.map(given).filter(Boolean);
    const skipped = here.filter((each) => each.answer === "skip").length;
    count.textContent = `${last}${here.length - skipped} of ${tiles.length} answered${skipped ? `, ${skipped} skipped` : ""}`;
    note.textContent = [
      ...(lasting ? [] : ["This browser keeps nothing for this page: export before you close it."]),
      ...(unshown ? [`Answers that are not shown and not exported, as their image has changed or may have: ${unshown}.`] : []),
      main.dataset.note,
    ].join(" ");
  };
  const split = (name) => [name.slice(0, name.indexOf(" ")), name.slice(name.indexOf(" ") + 1)];
  /* Images that have an answer to other bytes, or by an earlier version, which did not know the bytes. */
  const others = new Set();
  const findOthers = () => {
    others.clear();
    try {
      for (const uri of Object.keys(JSON.parse(localStorage.getItem(earlierKey))?.answers || {})) others.add(uri);
    } catch { /* nothing is kept */ }
    for (const name of Object.keys(kept.answers)) {
      const [content, uri] = split(name);
      if (tileOf.has(uri) && tileOf.get(uri).dataset.content !== content) others.add(uri);
    }
  };
  /* The answer to each image: that to the bytes which the page shows, or else the last one that was given. */
  const current = () => {
    const found = new Map();
    for (const [name, each] of Object.entries(kept.answers)) {
      const [content, uri] = split(name);
      if (tileOf.has(uri) ? tileOf.get(uri).dataset.content === content : !(found.get(uri)?.when > each.when)) found.set(uri, { ...each, uri, content });
    }
    return found;
  };
  const quoted = (text) => `"${String(text).replaceAll('"', '""')}"`;
  const csv = () => {
    load();
    const rows = [...current().values()].filter((each) => each.answer !== "skip");
    const predicted = ({ uri, predicted }) => predicted ?? tileOf.get(uri)?.dataset.predicted ?? "";
    const values = (each) => [each.uri, each.label, each.answer, each.who || kept.who, each.when, each.content, predicted(each)];
    const lines = rows.map((each) => values(each).map(quoted).join(","));
    return ["uri,label,answer,who,when,content_hash,predicted", ...lines].join("\r\n") + "\r\n";
  };
  const download = () => {
    const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    const link = make("a", { href: url, download: "brainray-answers.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  };
  const build = () => {
    const who = make("input", { value: kept.who, placeholder: "your name or initials", autocomplete: "off" });
    who.setAttribute("aria-label", "Your name or initials, for the exported answers");
    who.addEventListener("input", () => { change((it) => { it.who = who.value; }); });
    const save_ = make("button", { type: "button", className: "main", id: "export", textContent: "Export answers (CSV)" });
    save_.addEventListener("click", download);
    const clear = make("button", { type: "button", textContent: "Clear" });
    clear.addEventListener("click", () => {
      if (!confirm("Forget all answers of this page?")) return;
      change((it) => { it.answers = {}; });
      try { localStorage.removeItem(earlierKey); } catch { /* nothing is kept */ }
      findOthers();
      tiles.forEach(show);
      tell();
    });
    addEventListener("storage", ({ key }) => {
      if (key !== null && key !== storageKey) return;
      load();
      findOthers();
      if (who !== document.activeElement) who.value = kept.who;
      tiles.forEach(show);
      tell();
    });
    bar.append(count, who, save_, clear, note);
    bar.hidden = false;
    tell();
    /* Where the bar stays in sight, what gets the focus is scrolled to above it, or it would hide the answers. */
    new ResizeObserver(() => {
      const inSight = getComputedStyle(bar).position === "sticky";
      document.documentElement.style.scrollPaddingBottom = inSight ? `${bar.offsetHeight}px` : "";
    }).observe(bar);
  };

  const step = (tile, by) => {
    const next = tiles[tiles.indexOf(tile) + by];
    if (next) { next.focus(); next.scrollIntoView({ block: "nearest" }); }
  };
  /* The letter or digit that is on the key on other keyboards, where this one has another script or a mark there. */
  const keyOf = ({ key, code }) =>
    (key.length > 1 || /[a-z0-9]/i.test(key) ? key : /^(?:Key|Digit)(.)$/.exec(code)?.[1] ?? key).toLowerCase();
  document.addEventListener("keydown", (event) => {
    const tile = event.target.closest(".tile[data-uri]");
    const key = keyOf(event);
    if (tile && key === "escape") tile.focus();
    if (!tile || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select")) return;
    /* A key that is held repeats itself, and would answer one image after the other. */
    if (key === "enter" && (event.target === tile || event.repeat)) {
      event.preventDefault();
      if (!event.repeat) controls.get(tile).group.firstChild.focus();
    }
    const judged = scored(tile) && { r: () => right(tile), w: () => wrong(tile, "") };
    const acts = {
      ...judged, n: () => answer(tile, "no_image", ""), s: () => answer(tile, "skip", ""),
      u: () => answer(tile, "", ""), z: () => tile.classList.toggle("big"), arrowright: () => step(tile, 1), arrowleft: () => step(tile, -1),
    };
    const name = scored(tile) && /^[1-9]$/.test(key) ? classes[Number(key) - 1] : undefined;
    const act = name === undefined ? acts[key] : () => wrong(tile, name);
    if (!act) return;
    event.preventDefault();
    if (event.repeat && !key.startsWith("arrow")) return;
    act();
    if (!key.startsWith("arrow") && key !== "u" && key !== "z") step(tile, 1);
  });

  const search = document.querySelector(".search");
  const find = () => {
    const wanted = search.querySelector("input").value.trim().toLowerCase();
    let hits = 0;
    for (const [each, text] of findable) {
      const hit = wanted !== "" && text.includes(wanted);
      each.classList.toggle("hit", hit);
      each.classList.remove("now");
      hits += hit;
    }
    search.querySelector("output").textContent = wanted === "" ? "" : `${hits} found here`;
  };
  search.addEventListener("input", find);
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    const hits = [...document.querySelectorAll(".hit")];
    const place = (hits.indexOf(document.querySelector(".hit.now")) + 1) % hits.length;
    hits.forEach((each, k) => each.classList.toggle("now", k === place));
    if (!hits.length) return;
    hits[place].scrollIntoView({ block: "center" });
    search.querySelector("output").textContent = `${place + 1} of ${hits.length} found here`;
  });
  /* From the search to what is found: a row of a table takes no focus by itself. */
  search.addEventListener("keydown", (event) => {
    const hit = document.querySelector(".hit.now") || document.querySelector(".hit");
    if (event.key !== "ArrowDown" || !hit) return;
    event.preventDefault();
    if (!hit.hasAttribute("tabindex")) hit.tabIndex = -1;
    hit.focus();
  });
  search.hidden = false;

  if (tiles.length) {
    change(() => {});
    findOthers();
    tiles.forEach(equip);
    build();
    document.querySelector(".keys").hidden = false;
  }
})();
