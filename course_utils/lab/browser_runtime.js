// ONNX Runtime in the page: started once for all widgets of a page, from bytes that Python sends.

// The smallest module with a vector instruction: a browser that refuses it has no SIMD.
const SIMD_MODULE = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
]);
const GROUP_MS = 4; // timed at once: a browser's clock ticks in steps of up to 0.1 or 1 ms
const ROUNDS = 25;
const WARM_UP_MS = 300; // without getting faster: the browser compiles what runs often once more
const MOST_WARM_UP_MS = 2000;
const CHUNK = 5; // images between two looks at what the learner does
const PATIENCE_MS = 4000;

function whyNoRuntime() {
  const advice = "Open the notebook in a current version of Chrome, Edge, Firefox or Safari.";
  if (typeof WebAssembly !== "object") return `This browser has no WebAssembly, or it is switched off. ${advice}`;
  if (!WebAssembly.validate(SIMD_MODULE)) return `The WebAssembly of this browser has no vector instructions (SIMD). ${advice}`;
  if (typeof DecompressionStream !== "function") return `This browser has no DecompressionStream to unpack the runtime. ${advice}`;
  return "";
}

// What the widgets of a page share: the runtime, and whose turn it is, since one thread computes.
function findShared(version) {
  const key = Symbol.for(`inference-measured onnxruntime-web ${version}`);
  globalThis[key] ??= { isAsked: false, runtime: null, last: Promise.resolve() };
  return globalThis[key];
}

function inTurn(shared, task) {
  const done = shared.last.then(task);
  shared.last = done.catch(() => {});
  return done;
}

const breathe = () => new Promise((go) => setTimeout(go)); // the page may draw and hear keys
const toPixels = (bytes) => Float32Array.from(bytes, (byte) => byte / 255);
const largest = (row) => row.reduce((best, value, n) => (value > row[best] ? n : best), 0);
const shortly = (error) => String(error?.message ?? error).replace(/\s+/g, " ").slice(0, 300);

function softmax(logits) {
  const most = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / sum);
}

function quartiles(numbers) {
  const sorted = [...numbers].sort((a, b) => a - b);
  return [0.25, 0.5, 0.75].map((share) => sorted[Math.round(share * (sorted.length - 1))]);
}

// Ask Python for the files: those of the models and the images, and the runtime if the page has none.
function askForFiles(model, shared) {
  return new Promise((resolve, reject) => {
    function ask() {
      model.send({ do: "load", runtime: !shared.isAsked });
      shared.isAsked = true;
    }
    function receive(message, buffers) {
      if (message.do !== "files") return;
      if (message.error) {
        shared.isAsked = Boolean(shared.runtime);
        return reject(new Error(message.error));
      }
      const files = buffers.map((view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength).slice());
      const [images, ...models] = files.splice(0, message.models + 1);
      if (files.length && !shared.runtime) {
        shared.runtime = startRuntime(...files, models[0]);
        shared.runtime.catch(() => Object.assign(shared, { isAsked: false, runtime: null }));
      }
      if (!shared.runtime) { // the widget that asked has lost its kernel
        shared.isAsked = false;
        return ask();
      }
      model.off("msg:custom", receive);
      resolve({ images, models });
    }
    model.on("msg:custom", receive);
    ask();
  });
}

// `first` is a model to warm up with: not before one is made does the runtime compile its WebAssembly.
async function startRuntime(script, packed, first) {
  const began = performance.now();
  let wasmBinary;
  try {
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    wasmBinary = await new Response(unpacked).arrayBuffer();
  } catch {
    throw new Error("The WebAssembly of ONNX Runtime arrived damaged. Run the cell again.");
  }
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  try {
    const ort = await import(url);
    Object.assign(ort.env.wasm, { wasmBinary, numThreads: 1, proxy: false });
    ort.env.logLevel = "fatal"; // what fails is said on the page
    const session = await ort.InferenceSession.create(first).catch((error) => {
      if (/no available backend/.test(error.message)) throw error; // else it is the model's fault
    });
    await session?.release();
    return { ort, startMs: performance.now() - began, megabytes: wasmBinary.byteLength / 1e6 };
  } catch (error) {
    throw new Error(`The WebAssembly of ONNX Runtime does not start: ${shortly(error)}`);
  } finally {
    URL.revokeObjectURL(url);
  }
}

// A network ready to run, or why it is not.
async function openNetwork(ort, name, file, shape) {
  try {
    let began = performance.now();
    const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
    const createMs = performance.now() - began;
    const size = shape.reduce((a, b) => a * b);
    const run = async (pixels) => {
      const images = new ort.Tensor("float32", pixels, [pixels.length / size, ...shape]);
      const results = await session.run({ [session.inputNames[0]]: images });
      return results[session.outputNames[0]].data;
    };
    began = performance.now();
    await run(new Float32Array(size));
    return { name, run, createMs, firstMs: performance.now() - began, release: () => session.release() };
  } catch (error) {
    return { name, error: `This browser cannot run ${name}: ${shortly(error)}` };
  }
}

// The latency of one image, the networks in turns. Returns for each the times of all rounds, in ms.
// Between two groups of runs the learner may draw.
async function timeNetworks(shared, networks, pixels) {
  const run = (network, times) => inTurn(shared, async () => {
    const began = performance.now();
    for (let n = 0; n < times; n++) await network.run(pixels);
    return (performance.now() - began) / times;
  });
  const repeats = [];
  for (const network of networks) {
    const last = performance.now() + MOST_WARM_UP_MS;
    let [best, until] = [Infinity, 0];
    while (performance.now() < Math.min(until, last) || best === Infinity) {
      const ms = await run(network, 10);
      if (ms < 0.9 * best) until = performance.now() + WARM_UP_MS; // it still gets faster
      best = Math.min(ms, best);
      await breathe();
    }
    repeats.push(Math.max(1, Math.ceil(GROUP_MS / Math.max(best, 0.01))));
  }
  const took = networks.map(() => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [n, network] of networks.entries()) took[n].push(await run(network, repeats[n]));
    await breathe();
  }
  return took.map((times, n) => ({ times, runs: ROUNDS * repeats[n] }));
}

// The class of every image, some at a time, so that the page stays alive.
async function classify(shared, network, images, size, tellProgress) {
  const answers = [];
  const count = images.length / size;
  while (answers.length < count) {
    const bytes = images.subarray(answers.length * size, (answers.length + CHUNK) * size);
    const logits = await inTurn(shared, () => network.run(toPixels(bytes)));
    const width = (logits.length * size) / bytes.length;
    for (let start = 0; start < logits.length; start += width)
      answers.push(largest(logits.subarray(start, start + width)));
    tellProgress(answers.length);
    await breathe();
  }
  return answers;
}

// Count what the page asks of servers from now on; `tell` gets a sentence now and whenever it changes.
function watchRequests(tell) {
  if (typeof PerformanceObserver !== "function") return tell("This browser does not tell which requests a page makes.");
  let others = 0;
  const own = [];
  const say = () => {
    const times = (n) => (n === 1 ? "once" : `${n} times`);
    const upkeep = own.length
      ? ` JupyterLab asked its own server ${times(own.length)} meanwhile, for its upkeep: ${[...new Set(own)].join(", ")}.` : "";
    tell(`Since the models were loaded, this page made ${others} request${others === 1 ? "" : "s"} to other servers.${upkeep}`);
  };
  new PerformanceObserver((list) => {
    for (const { name } of list.getEntries()) {
      const url = new URL(name, location.href);
      if (!/^https?:/.test(url.protocol)) continue; // data: and blob: lie in the page
      if (url.origin === location.origin) own.push(url.pathname.match(/(api|lab|static)\/?[^/]*/)?.[0] ?? url.pathname);
      else others++;
    }
    say();
  }).observe({ type: "resource" });
  say();
}
