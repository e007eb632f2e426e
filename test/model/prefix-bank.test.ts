import t from "tap";
import { kvElements, type KvTensor, type ModelShape } from "../../src/kv.ts";
import { storeGraph } from "../../src/model/cache-graphs.ts";
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";
import { PrefixBank } from "../../src/model/prefix-bank.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { ElementType } from "../../src/runtime/ort-api.ts";
import { Runtime } from "../../src/runtime/session.ts";

const SHAPE: ModelShape = { layers: 2, heads: 3, headDim: 4, width: 12, positions: 8, vocabSize: 10 };
const PER_PAGE = 12;
const PAGES = 11;
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());

/** A bank, and all of its memory as the process sees it. */
function openBank(t: Tap): { bank: PrefixBank; memory: () => Float32Array } {
  const device = { ...DEVICES.cpu, hostMemory: false };
  const store = runtime.session(storeGraph(DataType.float, SHAPE), { threads: 1, device });
  const tensor = store.allocate(ElementType.float32, [PAGES * PER_PAGE, SHAPE.headDim]);
  const graph = new OnnxGraph("identity", "");
  graph.input("x", DataType.float, ["n", SHAPE.headDim]);
  graph.output("y", DataType.float, ["n", SHAPE.headDim]);
  graph.node("Identity", ["x"], ["y"]);
  const identity = runtime.session(graph.encode(), { threads: 1, device });
  t.teardown(() => {
    tensor[Symbol.dispose]();
    identity[Symbol.dispose]();
    store[Symbol.dispose]();
  });
  const memory = (): Float32Array => {
    const data = new Float32Array(PAGES * PER_PAGE * SHAPE.headDim);
    using y = runtime.tensor(data, tensor.shape);
    using binding = identity.binding({ x: tensor }, { y });
    identity.runNow(binding);
    return data;
  };
  return { bank: new PrefixBank(runtime, SHAPE, tensor, store), memory };
}
type Tap = Pick<typeof t, "teardown">;

/** Every value tells its prefix and place. */
function prefix(length: number, mark: number): KvTensor {
  return { length, data: Float32Array.from({ length: kvElements(SHAPE, length) }, (_, index) => mark * 1000 + index) };
}

/** A prefix as its pages have it. */
function fromPages(memory: Float32Array, pages: Int32Array): Float32Array {
  const { headDim } = SHAPE;
  const data = new Float32Array(PER_PAGE * pages.length * headDim);
  for (let vector = 0; vector < PER_PAGE; vector++) {
    pages.forEach((page, token) => {
      const from = (page * PER_PAGE + vector) * headDim;
      data.set(memory.subarray(from, from + headDim), (vector * pages.length + token) * headDim);
    });
  }
  return data;
}

t.test("prefixes lie in pages of their own, page 0 is zeros", async (t) => {
  const { bank, memory } = openBank(t);
  const prefixes = [prefix(3, 1), prefix(5, 2), prefix(1, 3)];
  const held = prefixes.map((each) => bank.hold(each));
  const all = held.flatMap((pages) => [...pages]);
  t.equal(new Set(all).size, 9, "no page twice");
  t.notOk(all.includes(0));
  prefixes.forEach(({ data }, index) => t.same(fromPages(memory(), held[index]!), data));
  t.ok(
    memory()
      .subarray(0, PER_PAGE * SHAPE.headDim)
      .every((value) => value === 0),
  );
  t.match(bank.stats(), { entries: 3, hits: 0, misses: 3, evictions: 0 });
});

t.test("the least recently used prefix makes way, and is the same when it comes again", async (t) => {
  const { bank, memory } = openBank(t);
  const [a, b, c] = [prefix(4, 1), prefix(4, 2), prefix(3, 3)];
  bank.hold(a);
  bank.hold(b);
  bank.hold(a);
  let pages = bank.hold(c);
  t.same(fromPages(memory(), pages), c.data);
  t.match(bank.stats(), { entries: 2, hits: 1, misses: 3, evictions: 1 });
  pages = bank.hold(a);
  t.same(fromPages(memory(), pages), a.data, "a was used after b");
  t.match(bank.stats(), { hits: 2, evictions: 1 });
  pages = bank.hold(b);
  t.same(fromPages(memory(), pages), b.data);
  t.equal(bank.stats().misses, 4);
});

t.test("after clear nothing is left, neither of held prefixes nor of evicted ones", async (t) => {
  const { bank, memory } = openBank(t);
  for (let mark = 1; mark < 6; mark++) bank.hold(prefix(4, mark));
  t.ok(memory().some((value) => value !== 0));
  bank.clear();
  t.ok(memory().every((value) => value === 0));
  t.match(bank.stats(), { entries: 0, bytes: 0 });
  const again = prefix(8, 9);
  const pages = bank.hold(again);
  t.same(fromPages(memory(), pages), again.data, "all pages can be used");
});

t.test("the pages of a prefix that has been collected stay until they are needed", async (t) => {
  const { bank } = openBank(t);
  bank.hold(prefix(8, 1));
  const same = prefix(8, 1);
  t.equal(bank.hold(same).length, 8);
  t.match(bank.stats(), { entries: 1, hits: 0, misses: 2, evictions: 1 }, "known by the object, not by its values");
});
