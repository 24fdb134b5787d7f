// The learner's model in the page: pick an image or draw one, and see what each network says to it.
// The files come once; then the page needs neither kernel nor server. What is drawn stays here.

const formatMs = (ms) => `${ms.toFixed(ms < 0.1 ? 3 : ms < 10 ? 2 : ms < 1000 ? 1 : 0)} ms`;
const formatShare = (share) => (0 < share && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`);

// What all views of a widget share: its networks and images, and what was measured.
function makeEngine(model) {
  const spec = model.get("spec");
  const shared = findShared(spec.version);
  const why = spec.missing || whyNoRuntime();
  const ready = why ? Promise.reject(new Error(why)) : start();
  ready.catch(() => {}); // each view says it
  const requests = { sentence: "", hear: new Set() };
  let isTimed = false;

  async function start() {
    const { images, models } = await askForFiles(model, shared);
    const { ort, startMs, megabytes } = await shared.runtime;
    const networks = [];
    for (const [n, { name }] of spec.models.entries())
      networks.push(await inTurn(shared, () => openNetwork(ort, name, models[n], [1, spec.height, spec.width])));
    const working = networks.filter(({ error }) => !error);
    if (!working.length) throw new Error(networks.map(({ error }) => error).join(" "));
    watchRequests((sentence) => {
      requests.sentence = sentence;
      requests.hear.forEach((tell) => tell(sentence));
    });
    return { networks, working, images, startMs, megabytes };
  }
  async function time() {
    isTimed = true;
    const { working, images } = await ready;
    const pixels = toPixels(images.subarray(0, spec.height * spec.width));
    const found = await timeNetworks(shared, working, pixels);
    const times = {};
    working.forEach(({ name, createMs, firstMs }, n) => {
      const [low_ms, median_ms, high_ms] = quartiles(found[n].times);
      times[name] = { median_ms, low_ms, high_ms, runs: found[n].runs, first_ms: firstMs, create_ms: createMs };
    });
    if (working.length === 2) {
      const speeds = found[0].times.map((ms, round) => ms / found[1].times[round]);
      times[working[1].name].speed = quartiles(speeds);
    }
    tellPython("times", times);
  }
  async function count(tellProgress) {
    const { working, images } = await ready;
    const of = {};
    for (const [n, network] of working.entries())
      of[network.name] = await classify(shared, network, images, spec.height * spec.width, (done) =>
        tellProgress((n + done / spec.labels.length) / working.length));
    tellPython("answers", { run: (model.get("answers").run ?? 0) + 1, of });
  }
  function tellPython(trait, value) {
    model.set(trait, value);
    try {
      model.save_changes();
    } catch { /* the kernel is gone; the page goes on, and says so when no answer comes */ }
  }
  const release = () => ready.then(({ working }) => working.forEach((network) => network.release())).catch(() => {});
  return { spec, shared, ready, requests, time, count, tellPython, release, isTimed: () => isTimed };
}

// What the networks say to a picture: a table whose cells are bars.
function makeTable(spec, networks) {
  const caption = make("caption");
  const sign = (n) => make("span", { class: `im-sign im-${"ab"[n]}` });
  const cells = spec.classes.map(() => networks.map((_, n) => {
    const [bar, text] = [sign(n), make("span", { class: "im-share" }, "–")];
    return { bar, text, node: make("td", {}, make("div", { class: "im-track" }, bar), text) };
  }));
  const titles = networks.map(({ name }, n) => make("th", { scope: "col" }, sign(n), name));
  const rows = spec.classes.map((name, k) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...cells[k].map(({ node }) => node)));
  const node = make("table", {}, caption,
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "class"), ...titles)), make("tbody", {}, ...rows));
  function set(answers) { // of each network its shares, or null
    answers.forEach((shares, n) => shares?.forEach((share, k) => {
      const cell = cells[k][n];
      cell.bar.style.width = `${100 * share}%`;
      cell.text.textContent = formatShare(share);
      cell.node.classList.toggle("im-top", k === largest(shares));
    }));
    const told = answers.map((shares, n) =>
      shares && `${networks[n].name}: ${spec.classes[largest(shares)]} ${formatShare(Math.max(...shares))}`);
    return told.filter(Boolean).join(", ");
  }
  return { node, caption, set };
}

// What it takes: a card for each network, and one for the start.
function makeCards(spec, { networks, startMs, megabytes }) {
  const card = (title) => {
    const [value, note] = [make("div", { class: "im-value" }, "…"), make("div", { class: "im-note" })];
    return { value, note, node: make("div", { class: "im-card" }, make("div", { class: "im-note" }, title), value, note) };
  };
  const cards = networks.map(({ name }, n) => card(`${name}, ${spec.models[n].size}: latency in this browser`));
  const start = card("ONNX Runtime started in");
  start.value.textContent = formatMs(startMs);
  start.note.textContent = `once a page: ${megabytes.toFixed(1)} MB of WebAssembly unpacked and compiled`;
  function tellTimes({ runs, low_ms, high_ms, first_ms, create_ms, speed }) {
    const [low, median, high] = (speed ?? []).map((ratio) => `${ratio.toFixed(2)}×`);
    return [
      `median of ${runs} runs, half of ${ROUNDS} rounds took ${formatMs(low_ms)} to ${formatMs(high_ms)}`,
      ...(speed ? [`${median} the speed of ${networks[0].name}, timed in turns (half of the rounds ${low} to ${high})`] : []),
      `first run ${formatMs(first_ms)}`, `session made in ${formatMs(create_ms)}`,
    ].join("; ");
  }
  function set(times) {
    networks.forEach(({ name, error }, n) => {
      const found = times[name];
      cards[n].value.textContent = found ? formatMs(found.median_ms) : error ? "–" : "…";
      cards[n].note.textContent = error ?? (found ? tellTimes(found) : "");
    });
  }
  return { node: make("div", { class: "im-cards" }, ...[...cards, start].map(({ node }) => node)), set };
}

function showModel(engine, model, el) {
  const { spec, shared, ready } = engine;
  const id = `im-browser-${Math.random().toString(36).slice(2)}`; // the page may hold several
  const said = make("p", { role: "status" }, "Loading the models and ONNX Runtime into this page …");
  const spoken = make("div", { role: "status", class: "im-spoken" });
  const body = make("div");
  el.append(make("section", { class: "im-panel im-browser", "aria-label": spec.name },
    make("div", { class: "im-name" }, spec.name), said, body, spoken));
  const slow = setTimeout(() => {
    said.textContent = "Python does not answer yet: it is busy, or this cell has to be run first.";
  }, PATIENCE_MS);
  ready.then(show).catch(showTwin).finally(() => clearTimeout(slow));

  const heard = [];
  function listen(event, handler) {
    model.on(event, handler);
    heard.push([event, handler]);
    handler();
  }
  let speaking;
  function say(text) {
    clearTimeout(speaking);
    speaking = setTimeout(() => (spoken.textContent = text), 400);
  }
  const tellFailure = (error) => (said.textContent = `The model stopped: ${shortly(error)}`);

  function showTwin(error) {
    said.textContent = shortly(error);
    const source = URL.createObjectURL(new Blob([model.get("picture")], { type: "image/png" }));
    body.replaceChildren(make("p", {}, "What Python says to the first images:"), make("img", { src: source, alt: spec.alt }));
  }

  function show(loaded) {
    const { networks, images } = loaded;
    const [count, size] = [spec.labels.length, spec.height * spec.width];
    said.textContent = "Everything is in this page now: pick an image, or draw one.";

    const table = makeTable(spec, networks);
    const easel = makeEasel(spec, id, {
      changed: () => name(origin ? `${origin}, with your strokes` : "your drawing"),
      cleared: () => {
        origin = "";
        strip.set();
        name("your drawing");
      },
      moved: () => say(easel.place() + told),
    });
    const strip = makeStrip(spec, id, images, (n) => {
      if (model.get("chosen") === n) pick(); // again: without the strokes
      else engine.tellPython("chosen", n);
    });
    let origin = ""; // of what is on the easel
    let told = "";
    function pick() {
      const n = model.get("chosen");
      strip.set(n);
      easel.set(images.subarray(n * size, (n + 1) * size));
      origin = `image ${n + 1} of ${count}, labelled ${spec.classes[spec.labels[n]]}`;
      name(origin);
    }
    function name(caption) {
      table.caption.textContent = caption;
      classifyPicture();
    }
    let [isBusy, isStale] = [false, false];
    async function classifyPicture() {
      if (isBusy) return (isStale = true); // the newest picture is next
      isBusy = true;
      try {
        do {
          isStale = false;
          const pixels = toPixels(easel.picture);
          const answers = [];
          for (const { run } of networks) answers.push(run ? softmax(await inTurn(shared, () => run(pixels))) : null);
          told = table.set(answers);
          say(easel.place() + told);
        } while (isStale);
      } catch (error) {
        tellFailure(error);
      }
      isBusy = false;
    }

    const cards = makeCards(spec, loaded);
    const progress = make("progress", { max: 1, value: 0, "aria-label": "images classified", hidden: "" });
    const [counted, reply] = [make("p", { role: "status" }), make("p", { role: "status" })];
    const again = pressOnce("Time again", engine.time);
    const counting = pressOnce(`Count the accuracy on ${count} images`, async () => {
      [progress.value, progress.hidden] = [0, false];
      await engine.count((share) => (progress.value = share)).finally(() => (progress.hidden = true));
    });
    function pressOnce(words, task) {
      const button = makeButton(words, async () => {
        button.setAttribute("aria-disabled", "true");
        await task().catch(tellFailure);
        button.setAttribute("aria-disabled", "false");
      });
      return button;
    }
    let waiting;
    function showCount() {
      const { run, of } = model.get("answers");
      if (!run) return;
      const words = Object.entries(of).map(([name, found]) => {
        const right = found.filter((answer, n) => answer === spec.labels[n]).length;
        return `${name} ${right} of ${count} right (${formatShare(right / count)})`;
      });
      const [a, b] = Object.values(of);
      if (b) words.push(`the same class from both for ${a.filter((answer, n) => answer === b[n]).length}`);
      counted.textContent = `Counted in this page: ${words.join("; ")}.`;
      reply.textContent = "Asking Python for its answers …";
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        reply.textContent = "Python does not answer: it is busy, or its kernel is gone. What this page counted holds.";
      }, PATIENCE_MS);
      showReply();
    }
    function showReply() {
      const { run, text } = model.get("told");
      if (!run || run !== model.get("answers").run) return;
      clearTimeout(waiting);
      reply.textContent = text;
    }
    const requests = make("p", { class: "im-requests" });
    const tellRequests = (sentence) => (requests.textContent = sentence);
    tellRequests(engine.requests.sentence);
    engine.requests.hear.add(tellRequests);

    body.replaceChildren(...strip.nodes, make("div", { class: "im-desk" }, easel.node, table.node), cards.node,
      make("div", { class: "im-buttons" }, again, counting, progress), counted, reply, requests,
      make("p", { class: "im-note" }, spec.note));
    listen("change:chosen", pick);
    listen("change:times", () => cards.set(model.get("times")));
    listen("change:answers", showCount);
    listen("change:told", showReply);
    if (!engine.isTimed()) again.click();
  }

  return () => {
    clearTimeout(speaking);
    clearTimeout(slow);
    heard.forEach(([event, handler]) => model.off(event, handler));
  };
}

export default () => { // once for each widget, however often it is shown
  let engine;
  return {
    initialize({ model }) {
      engine = makeEngine(model);
      return engine.release;
    },
    render: ({ model, el }) => showModel(engine, model, el),
  };
};
