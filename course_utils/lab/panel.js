// The panel of a lab. Everything that it writes or draws comes with `spec` and `numbers`;
// a drag only looks up the point under the knobs, so it needs no kernel.

function render({ model, el }) {
  const spec = model.get("spec");
  const view = model.get("numbers"); // a DataView; copied, since its offset may be odd
  const numbers = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  const id = `im-panel-${Math.random().toString(36).slice(2)}`; // the page may hold several
  const sizes = spec.knobs.map((knob) => knob.values.length);
  const pointAt = (chosen) => chosen.reduce((index, value, k) => index * sizes[k] + value, 0);
  const columns = spec.charts.reduce((sum, chart) => sum + chart.lines.length, 0);
  const value = (point, column, end) => numbers[(point * columns + column) * 3 + end];
  const hasGuess = (guess) => spec.predict && Object.keys(guess).length > 0;
  const root = make("section", { class: "im-panel", "aria-label": spec.name });
  const body = make("div");
  root.append(make("div", { class: "im-name" }, spec.name), body);
  el.append(root);

  // A guess: in three digits, or to the unit, if its slider has stops of its own.
  function words({ digits, unit, values, per = 1 }, number) {
    const look = values
      ? { maximumSignificantDigits: 3, maximumFractionDigits: 0, roundingPriority: "morePrecision" }
      : { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return `${(number / per).toLocaleString("en", look)} ${unit}`;
  }

  // The prediction: nothing is shown before it is made or declined.
  function ask() {
    const { setting, known, fields } = spec.predict;
    const form = make("form", { class: "im-ask" });
    form.append(make("p", {}, make("strong", {}, `Predict: what will ${setting} give? `), known));
    const commit = make("button", { type: "submit", disabled: "", ...KEEP_KEYS }, "Commit my guess");
    const moved = new Set();
    const answers = fields.map((field, n) => {
      const { values } = field; // the stops of a logarithmic slider, which counts them
      const scale = values ? { max: values.length - 1, step: 1 } : { max: field.most, step: field.step };
      const input = make("input", { type: "range", id: `${id}-guess-${n}`, min: 0, ...scale, ...KEEP_KEYS });
      const shown = make("output", { for: input.id });
      const answer = () => (values ? values[Number(input.value)] : Number(input.value));
      const update = () => {
        shown.textContent = words(field, answer());
        input.setAttribute("aria-valuetext", shown.textContent);
      };
      input.value = scale.max / 2;
      input.addEventListener("input", () => {
        update();
        moved.add(n);
        commit.disabled = moved.size < fields.length; // a guess is a decision, not a default
      });
      update();
      form.append(make("div", { class: "im-knob" }, make("label", { for: input.id }, field.name), input, shown));
      return answer;
    });
    const skip = make("button", { type: "button", ...KEEP_KEYS }, "Show me");
    form.append(make("div", { class: "im-buttons" }, commit, skip));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const guess = Object.fromEntries(fields.map((field, n) => [field.name, answers[n]()]));
      model.set("guess", guess);
      model.send({ do: "guess", ...guess });
      reveal();
    });
    skip.addEventListener("click", reveal);
    body.replaceChildren(form);
  }

  function reveal() {
    const toPoint = [];
    for (let rest = spec.predict.point, k = sizes.length - 1; k >= 0; k--) {
      toPoint.unshift(rest % sizes[k]);
      rest = Math.floor(rest / sizes[k]);
    }
    model.set("chosen", toPoint);
    model.set("revealed", true);
    model.save_changes();
  }

  function show() {
    const guess = model.get("guess");
    const parts = [];
    if (hasGuess(guess)) {
      const told = spec.predict.fields.map((field) => words(field, guess[field.name])).join(" and ");
      parts.push(make("p", { class: "im-outcome" },
        `For ${spec.predict.setting} you predicted ${told}; ${spec.isMeasured ? "measured" : "computed"}: ${spec.predict.measured}.`));
    }

    const readers = spec.knobs.map((knob, k) => (knob.isMenu ? menu : knob.isChoice ? choice : slider)(knob, k));
    parts.push(...readers.map((reader) => reader.node));

    const row = make("div", { class: "im-cards" });
    const cards = spec.points[0].cards.map(({ title }) => {
      const [value, note] = [make("div", { class: "im-value" }), make("div", { class: "im-note" })];
      row.append(make("div", { class: "im-card" }, make("div", { class: "im-note" }, title), value, note));
      return { value, note };
    });
    const charts = spec.charts.map((chart) => lineChart(chart, spec, value, guess));
    const pictures = numbers.subarray(spec.points.length * columns * 3);
    const detail = spec.detail && drawDetail(spec.detail, spec.points.length, pictures);
    const curves = charts.map((chart) => chart.svg); // beside each other, or above each other
    const drawn = detail ? [make("div", { class: "im-column" }, ...curves), detail.svg] : curves;
    parts.push(row, make("div", { class: "im-charts" }, ...drawn));
    const used = spec.key.filter((sign) => hasGuess(guess) || !sign.startsWith("×"));
    if (used.length) parts.push(make("p", { class: "im-note" }, used.join(" · ")));

    const button = make("button", { type: "button", ...KEEP_KEYS }, "Measure this point again");
    const status = make("span", { role: "status" });
    const spoken = make("span", { role: "status", class: "im-spoken" });
    let noAnswer;
    button.addEventListener("click", () => {
      if (button.getAttribute("aria-disabled") === "true") return;
      status.textContent = "Asking Python …";
      noAnswer = setTimeout(() => {
        status.textContent = "Python does not answer: it is busy, or this cell has to be run first.";
      }, 4000);
      model.send({ do: "measure", chosen: model.get("chosen") }); // it may overtake the last change
    });
    const answer = () => {
      const { text, busy } = model.get("again");
      clearTimeout(noAnswer);
      status.textContent = text ?? "";
      button.setAttribute("aria-disabled", busy ? "true" : "false");
      charts.forEach((chart) => chart.freshMarks(model.get("again")));
    };
    if (spec.isMeasured) parts.push(make("div", { class: "im-buttons" }, button, status));
    parts.push(spoken, table(), detail?.table ?? "", make("p", { class: "im-note" }, spec.provenance));
    body.replaceChildren(...parts);

    let speaking;
    function update() {
      const chosen = model.get("chosen");
      const index = pointAt(chosen);
      const point = spec.points[index];
      readers.forEach((reader, k) => reader.set(chosen[k], point.said));
      cards.forEach((card, n) => {
        card.value.textContent = point.cards[n].value;
        card.note.textContent = point.cards[n].note;
      });
      charts.forEach((chart) => chart.set(chosen, index));
      detail?.set(index);
      clearTimeout(speaking);
      speaking = setTimeout(() => (spoken.textContent = point.said), 400);
    }
    update();
    answer();
    listen("change:chosen", update);
    listen("change:again", answer);
  }

  function choose(k, value) {
    const chosen = [...model.get("chosen")];
    chosen[k] = value;
    model.set("chosen", chosen);
    model.save_changes();
  }

  function slider(knob, k) {
    const input = make("input", {
      type: "range", id: `${id}-knob-${k}`, min: 0, max: knob.values.length - 1, step: 1, ...KEEP_KEYS,
    });
    const shown = make("output", { for: input.id });
    input.addEventListener("input", () => choose(k, Number(input.value)));
    const set = (value, said) => {
      input.value = value;
      shown.textContent = knob.shown[value];
      input.setAttribute("aria-valuetext", said);
    };
    return { set, node: make("div", { class: "im-knob" }, make("label", { for: input.id }, knob.name), input, shown) };
  }

  function choice(knob, k) {
    const inputs = knob.values.map((value, n) => {
      const input = make("input", { type: "radio", name: `${id}-knob-${k}`, id: `${id}-knob-${k}-${n}`, ...KEEP_KEYS });
      input.addEventListener("change", () => choose(k, n));
      return input;
    });
    const labels = inputs.map((input, n) => make("label", { for: input.id }, input, knob.values[n]));
    const node = make("fieldset", { class: "im-knob" }, make("legend", {}, knob.name), ...labels);
    return { set: (value) => (inputs[value].checked = true), node };
  }

  function menu(knob, k) {
    const options = knob.shown.map((value) => make("option", {}, value));
    const select = make("select", { id: `${id}-knob-${k}`, ...KEEP_KEYS }, ...options);
    select.addEventListener("input", () => choose(k, select.selectedIndex));
    const node = make("div", { class: "im-knob" }, make("label", { for: select.id }, knob.name), select);
    return { set: (value) => (select.selectedIndex = value), node };
  }

  function table() {
    const rows = make("tbody");
    const details = tableOf("All points as a table", spec.head, rows);
    const fill = () => rows.append(...spec.rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell)))));
    details.addEventListener("toggle", fill, { once: true }); // not before: there may be hundreds
    return details;
  }

  const heard = [];
  function listen(event, handler) {
    model.on(event, handler);
    heard.push([event, handler]);
  }
  function start() {
    if (model.get("revealed")) show();
    else ask();
  }
  start();
  listen("change:revealed", start);
  return () => heard.forEach(([event, handler]) => model.off(event, handler));
}

export default { render };
