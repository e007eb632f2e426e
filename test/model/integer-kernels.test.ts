/** int8 is exact by the form of its weights, which a start chooses by trying them on its processor. */
import { spawnSync } from "node:child_process";
import { mkdtemp, readdir, readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import t from "tap";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { Gpt2Runner } from "../../src/model/gpt2-runner.ts";
import { ensureArithmetic, ensureGraph } from "../../src/model/graph-cache.ts";
import type { IntegerArithmetic } from "../../src/model/graph-weights.ts";
import { exactIntegers, inexactSum, integerCheck } from "../../src/model/integer-kernels.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { multiplyInexactly } from "../support/inexact-check.ts";
import { goldenDir } from "../support/model.ts";
import { lacking, reasonFor } from "../support/requirements.ts";
import { all, decode, messages, text, type Field } from "../support/protobuf.ts";
import { differingBits, rowOf, type Row } from "./runner-fixture.ts";

t.setTimeout(300_000);

const FORMS: readonly IntegerArithmetic[] = ["int8-u8s8", "int8-u8u8"];
const FLOAT = 1;
const UINT8 = 2;
const INT8 = 3;
const root = t.testdir();
const runtime = new Runtime();
const checkpoint = await openCheckpoint(goldenDir("gelu-new-f32"));
t.teardown(async () => {
  runtime[Symbol.dispose]();
  await checkpoint.close();
});
const options = {
  shape: checkpoint.shape,
  slots: 32,
  threads: 2,
  device: DEVICES.cpu,
  precision: "int8",
  bankBytes: 0,
} as const;

interface Product {
  readonly domain: string | undefined;
  readonly activations: Field[];
  readonly weights: Field[];
  readonly scales: Field[];
  readonly zeroPoints: (Field[] | undefined)[];
}

/** All products of 8-bit integers of a model, those of graphs inside the graph as well, with what is known of their inputs. */
function integerProducts(model: Uint8Array): Product[] {
  const products: Product[] = [];
  const visit = (graph: Field[], outer: ReadonlyMap<string, Field[]>): void => {
    const known = new Map(outer);
    for (const constant of messages(graph, 5)) known.set(text(constant, 8)[0]!, constant);
    const nodes = messages(graph, 1);
    for (const node of nodes) for (const output of text(node, 2)) known.set(output, node);
    for (const node of nodes) {
      for (const attribute of messages(node, 5)) for (const inner of messages(attribute, 6)) visit(inner, known);
      const op = text(node, 4)[0]!;
      if (!/Integer|^Q|Quant/.test(op) || op === "QuantizeLinear") continue;
      t.equal(op, "MatMulIntegerToFloat", "no other operator multiplies integers");
      const [a, b, , scales, aZero, bZero] = text(node, 1).map((name) => known.get(name));
      products.push({
        domain: text(node, 7)[0],
        activations: a!,
        weights: b!,
        scales: scales!,
        zeroPoints: [aZero, bZero],
      });
    }
  };
  visit(messages(decode(model), 7)[0]!, new Map());
  return products;
}

t.test(
  "every product of a built graph has operands of its form, with the zero points that belong to them",
  async (t) => {
    const cache = await mkdtemp(join(root, "cache-"));
    for (const form of FORMS) {
      const folder = dirname(await ensureArithmetic(checkpoint, cache, form));
      t.match(folder, `-${form}-v`, "machines that share the cache have a folder each");
      for (const [file, count] of [
        ["model.onnx", 4 * checkpoint.shape.layers + 1],
        ["device.onnx", 4 * checkpoint.shape.layers + 1],
        [null, 2],
      ] as const) {
        const products = integerProducts(file === null ? integerCheck(form) : await readFile(join(folder, file)));
        t.equal(products.length, count, `${form}, ${file ?? "the check"}`);
        for (const { activations, weights, scales, zeroPoints } of products) {
          t.same(text(activations, 4), ["QuantizeLinear"]);
          t.same(all(weights, 2), [BigInt(form === "int8-u8u8" ? UINT8 : INT8)], text(weights, 8).join());
          t.same(
            [all(scales, 2), all(scales, 1)],
            [[BigInt(FLOAT)], [all(weights, 1)[1]]],
            "one scale per output channel",
          );
          const [aZero, bZero] = zeroPoints.map(
            (constant) => constant && [all(constant, 2), [...(all(constant, 9)[0] as Uint8Array)]],
          );
          t.same(aZero, [[BigInt(UINT8)], [128]], "activations are unsigned around 128");
          t.same(bZero, form === "int8-u8u8" ? [[BigInt(UINT8)], [128]] : undefined);
        }
      }
    }
  },
);

t.test("both forms hold the same integers", async (t) => {
  const cache = await mkdtemp(join(root, "cache-"));
  const [signed, unsigned] = (await Promise.all(
    FORMS.map(async (form) => readFile(join(dirname(await ensureArithmetic(checkpoint, cache, form)), "weights.bin"))),
  )) as [Buffer, Buffer];
  const model = await readFile(join(dirname(await ensureArithmetic(checkpoint, cache, "int8-u8u8")), "model.onnx"));
  t.equal(signed.length, unsigned.length);
  const integers = new Uint8Array(signed.length);
  for (const { weights } of integerProducts(model)) {
    const range = new Map(messages(weights, 13).map((entry) => [text(entry, 1)[0], Number(text(entry, 2)[0])]));
    integers.fill(1, range.get("offset"), range.get("offset")! + range.get("length")!);
  }
  t.ok(integers.includes(1) && integers.includes(0));
  t.ok(
    signed.every((byte, at) => unsigned[at] === (integers[at] === 1 ? byte ^ 128 : byte)),
    "128 more each; everything else is the same",
  );
});

t.test("the form chosen here is exact here, with any number of threads", async (t) => {
  const chosen = await exactIntegers();
  for (const threads of [1, 2]) t.equal(await inexactSum(runtime, chosen, threads), null);
  t.equal(await inexactSum(runtime, "int8-u8u8"), null, "unsigned weights are exact everywhere");
  if (chosen === "int8-u8u8")
    t.not(await inexactSum(runtime, "int8-u8s8"), null, "they are taken only where signed ones are not exact");
});

t.test("where neither form is exact, there is no graph to open", async (t) => {
  const cache = await mkdtemp(join(root, "cache-"));
  const exact = multiplyInexactly();
  await t.rejects(ensureGraph(checkpoint, cache, "int8"), {
    name: "PrecisionError",
    message:
      /^--precision int8 cannot be used: ONNX Runtime's 8-bit products are not exact on this processor \(a sum of 8258048 comes out as 2752\d{3}(\.\d+)?\)\. --precision fp32 works on every processor\.$/,
  });
  t.same(await readdir(cache), []);
  exact();
  const runner = await Gpt2Runner.open(runtime, {
    ...options,
    modelPath: await ensureGraph(checkpoint, cache, "int8"),
  });
  await runner.close();
});

/** Decode steps of every number of rows from 1 to 32, each row with a prompt of its own; rows of all steps one after the other. */
async function decoded(form: IntegerArithmetic): Promise<Row[][]> {
  const cache = await mkdtemp(join(root, "cache-"));
  const runner = await Gpt2Runner.open(runtime, {
    ...options,
    modelPath: await ensureArithmetic(checkpoint, cache, form),
  });
  const { vocabSize } = checkpoint.shape;
  const steps: Row[][] = [];
  for (let row = 0; row < 32; row++)
    await runner.prefill(
      row,
      0,
      Int32Array.from({ length: 5 }, (_, at) => (row * 37 + at * 11) % vocabSize),
      "last",
    );
  for (let rows = 1; rows <= 32; rows++) {
    const output = await runner.decode(
      Int32Array.from({ length: rows }, (_, row) => row),
      new Int32Array(rows).fill(5),
    );
    steps.push(Array.from({ length: rows }, (_, row) => rowOf(output, row)));
  }
  await runner.close();
  return steps;
}

t.test("unsigned weights: a row's numbers are the same bits beside 0 to 31 others", async (t) => {
  const steps = await decoded("int8-u8u8");
  const last = steps.at(-1)!;
  t.equal(
    steps.reduce((sum, rows) => sum + rows.reduce((bits, row, index) => bits + differingBits(row, last[index]!), 0), 0),
    0,
  );
  t.ok(differingBits(last[0]!, last[1]!) > 0, "rows differ from each other");
});

const signedExact = (await exactIntegers()) === "int8-u8s8";
t.test("both forms give the same bits", { skip: signedExact ? false : reasonFor("signed-integers") }, async (t) => {
  const [signed, unsigned] = [await decoded("int8-u8s8"), await decoded("int8-u8u8")];
  t.equal(
    signed.reduce(
      (sum, rows, step) =>
        sum + rows.reduce((bits, row, index) => bits + differingBits(row, unsigned[step]![index]!), 0),
      0,
    ),
    0,
  );
});

t.test(
  "a processor without VNNI is found out, and gets unsigned weights",
  { skip: lacking("linux-x64", "qemu-user") },
  async (t) => {
    // In one file without types: whatever Node does to load it is emulated, too, as would be what the test runner adds to every Node.
    const script = join(root, "integers.mjs");
    await build({
      entryPoints: [fileURLToPath(new URL("children/integers.ts", import.meta.url))],
      bundle: true,
      packages: "external",
      platform: "node",
      format: "esm",
      target: "node20",
      outfile: script,
    });
    // Haswell has AVX2 and nothing newer.
    const attempt = (): { status: number | null; stdout: string; stderr: string } =>
      spawnSync(
        "env",
        ["-u", "NODE_OPTIONS", "qemu-x86_64", "-cpu", "Haswell", process.execPath, "--single-threaded", script],
        { encoding: "utf8", timeout: 80_000 },
      );
    let { status, stdout, stderr } = attempt();
    // Of the emulator, now and then, with as many threads as Node has.
    for (let times = 1; times < 4 && stderr.includes("qemu: uncaught target signal 11"); times++)
      ({ status, stdout, stderr } = attempt());
    t.equal(status, 0, stderr);
    t.same(JSON.parse(stdout), {
      chosen: "int8-u8u8",
      // 512 / 2 pairs of 2 * 255 * 127, each cut to 32,767, without what 128 too much in each activation adds.
      "int8-u8s8": { expected: 512 * 127 * 127, computed: 256 * 32767 - 128 * 127 * 512 },
      "int8-u8u8": null,
    });
  },
);
