// The bits of a number. The rules are those of `course_utils/formats.py`, the words come with
// `spec`; a drag or a flip is computed here, so it needs no kernel.

const memory = new DataView(new ArrayBuffer(8));

function roundToEven(number) {
  const low = Math.floor(number);
  const rest = number - low;
  return rest > 0.5 || (rest === 0.5 && low % 2) ? low + 1 : low;
}

const toBits = (code, count) => code.toString(2).padStart(count, "0");

// How a format stores a number, and which number its bits stand for.
function makeCodec(format) {
  const count = format.bits.length;
  if (format.scale) {
    const most = 2 ** (count - 1) - 1;
    return {
      encode(value) {
        const steps = roundToEven(Math.max(-most, Math.min(most, value / format.scale)));
        return toBits(steps < 0 ? steps + 2 ** count : steps, count);
      },
      decode: (bits) => (parseInt(bits, 2) - Number(bits[0]) * 2 ** count) * format.scale,
    };
  }
  const { exponentBits, fractionBits, hasInfinity } = format;
  const bias = 2 ** (exponentBits - 1) - 1;
  const ones = 2 ** (count - 1) - 1; // all bits after the sign
  const largest = ones - (hasInfinity ? 2 ** fractionBits : 1);
  const overflow = largest + (hasInfinity ? 1 : 0);
  return {
    encode(value) {
      memory.setFloat64(0, Math.abs(value));
      const exponent = Math.max((memory.getUint16(0) >> 4) - 1023, 1 - bias); // of a float64
      const significand = roundToEven(Math.abs(value) / 2 ** (exponent - fractionBits));
      const code = (exponent + bias - 1) * 2 ** fractionBits + significand;
      return (value < 0 ? "1" : "0") + toBits(Math.min(code, overflow), count - 1);
    },
    decode(bits) {
      const sign = bits[0] === "1" ? -1 : 1;
      const code = parseInt(bits.slice(1), 2);
      if (code > largest) return hasInfinity && code === overflow ? sign * Infinity : NaN;
      const exponent = Math.floor(code / 2 ** fractionBits);
      const fraction = code % 2 ** fractionBits;
      const significand = exponent ? 2 ** fractionBits + fraction : fraction;
      return sign * significand * 2 ** (Math.max(exponent, 1) - bias - fractionBits);
    },
  };
}

// The same text as `write_number` and `write_error` in bits.py.
function writeNumber(number) {
  const sign = number < 0 || Object.is(number, -0) ? "−" : "";
  if (!Number.isFinite(number)) return Number.isNaN(number) ? "NaN" : `${sign}∞`;
  const size = Math.abs(number);
  const isPlain = size === 0 || (size >= 1e-4 && size < 1e16);
  return sign + (isPlain ? String(size) : size.toExponential().replace("+", "").replace("-", "−"));
}

function writeError(value, stored) {
  if (stored === value) return "exact";
  if (value === 0 || Number.isNaN(stored)) return "not defined";
  const percent = 100 * (Math.abs(stored - value) / Math.abs(value));
  return `${writeNumber(Number(percent.toPrecision(2)))} %`;
}

function render({ model, el }) {
  const spec = model.get("spec");
  const id = `im-bits-${Math.random().toString(36).slice(2)}`; // the page may hold several
  const spoken = make("div", { role: "status", class: "im-spoken" });

  function setValue(text) {
    const value = Number(text) + 0; // no negative zero
    if (text === "" || !Number.isFinite(value)) return;
    model.set("flipped", {});
    model.set("value", value);
    model.save_changes();
  }

  const flips = () => {
    const { value, bits } = model.get("flipped");
    return value === model.get("value") ? bits : {}; // not those of another number
  };

  function flip(row, position) {
    const bits = [...row.bits];
    bits[position] = bits[position] === "1" ? "0" : "1";
    model.set("flipped", { value: model.get("value"), bits: { ...flips(), [row.name]: bits.join("") } });
    model.save_changes();
    say(row.read());
  }

  let speaking;
  function say(text) {
    clearTimeout(speaking);
    speaking = setTimeout(() => (spoken.textContent = text), 400);
  }

  function makeRow(format) {
    const { encode, decode } = makeCodec(format);
    const [stored, error] = [make("div", { role: "cell" }), make("div", { role: "cell" })];
    const buttons = format.bits.map(({ field, label }, n) => {
      const isFirst = n > 0 && field !== format.bits[n - 1].field ? " im-first" : "";
      const button = make("button", {
        type: "button", class: `im-bit im-${field}${isFirst}`, "aria-label": label, tabindex: n ? -1 : 0, ...KEEP_KEYS,
      });
      button.addEventListener("click", () => flip(row, n));
      button.addEventListener("focus", () => buttons.forEach((one) => (one.tabIndex = one === button ? 0 : -1)));
      button.addEventListener("keydown", (event) => {
        const to = { ArrowLeft: n - 1, ArrowRight: n + 1, Home: 0, End: buttons.length - 1 }[event.key];
        if (to === undefined) return;
        event.preventDefault();
        buttons[to]?.focus();
      });
      return button;
    });
    const row = {
      name: format.name,
      readError: () => `${format.name} ${error.textContent}`,
      read: () => `${format.name}: ${stored.textContent}, ${spec.head[3]} ${error.textContent}`,
      update(value) {
        const bits = encode(value);
        row.bits = flips()[format.name] ?? bits;
        buttons.forEach((button, n) => {
          button.textContent = row.bits[n];
          button.setAttribute("aria-pressed", row.bits[n] === "1");
          button.classList.toggle("im-flipped", row.bits[n] !== bits[n]);
        });
        stored.textContent = writeNumber(decode(row.bits));
        error.textContent = writeError(value, decode(row.bits));
      },
      node: make("div", { role: "row", class: "im-row" },
        make("div", { role: "rowheader" }, format.name),
        make("div", { role: "cell" }, make("div", { role: "group", "aria-label": format.name }, ...buttons)),
        stored, error),
    };
    return row;
  }

  const slider = make("input", {
    type: "range", id: `${id}-slider`, min: -spec.largest, max: spec.largest, step: spec.step, ...KEEP_KEYS,
  });
  const field = make("input", { type: "number", id: `${id}-field`, step: spec.step, ...KEEP_KEYS });
  slider.addEventListener("input", () => setValue(slider.value));
  field.addEventListener("input", () => setValue(field.value));
  field.addEventListener("change", update); // an empty field shows the number again

  const rows = spec.formats.map(makeRow);
  const head = spec.head.map((title) => make("div", { role: "columnheader" }, title));
  const key = spec.key.map((name) => make("span", { class: `im-key im-${name}` }, name));
  el.append(make("section", { class: "im-panel im-bits", "aria-label": spec.name },
    make("div", { class: "im-name" }, spec.name),
    make("div", { class: "im-knob" }, make("label", { for: slider.id }, spec.slider), slider,
      make("div", { class: "im-typed" }, make("label", { for: field.id }, spec.field), field)),
    make("div", { role: "table", "aria-label": spec.name },
      make("div", { role: "row", class: "im-row im-head" }, ...head), ...rows.map((row) => row.node)),
    make("p", { class: "im-note" }, ...key, spec.hint),
    make("p", { class: "im-note" }, spec.note), spoken));

  function update() {
    const value = model.get("value");
    slider.value = value;
    slider.setAttribute("aria-valuetext", writeNumber(value));
    if (field.value === "" || Number(field.value) !== value) field.value = value;
    rows.forEach((row) => row.update(value));
  }
  function move() {
    update();
    say(`${spec.head[3]}: ${rows.map((row) => row.readError()).join(", ")}`);
  }
  update();
  model.on("change:value", move);
  model.on("change:flipped", update);
  return () => {
    clearTimeout(speaking);
    model.off("change:value", move);
    model.off("change:flipped", update);
  };
}

export default { render };
