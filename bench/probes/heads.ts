/**
 * Cost of choosing the candidates of [k, V] logits on CUDA, captured, in several forms.
 *
 *     node --import tsx bench/probes/heads.ts ROWS...
 */
import { writeFileSync } from "node:fs";
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";
import { toFloat16 } from "../../src/formats/float16.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime, bytesOf } from "../../src/runtime/session.ts";
import type { FixedTensor } from "../../src/runtime/stream-device.ts";

const V = 50257;
const [PARTS, SIZE] = [29, 1733];
const K = 64;
const int64 = (g: OnnxGraph, name: string, ...dims: number[]): void =>
  void g.constant(name, DataType.int64, [dims.length], BigInt64Array.from(dims, BigInt));
const top = { axis: -1, largest: 1, sorted: 1 };
const levels = (g: OnnxGraph, logits: string): void => {
  int64(g, "k", K);
  int64(g, "by_part", -1, SIZE);
  int64(g, "flat", -1, PARTS * K);
  g.node("Reshape", [logits, "by_part"], ["p"]);
  g.node("TopK", ["p", "k"], ["pv", "pi"], top);
  g.node("Reshape", ["pv", "flat"], ["f"]);
  g.node("TopK", ["f", "k"], ["top", "at"], top);
};
const finalists = (g: OnnxGraph, logits: string, groupMax: string): void => {
  int64(g, "k", K);
  int64(g, "col", -1, K, 1);
  int64(g, "flat", -1, K * PARTS);
  g.node("TopK", [groupMax, "k"], ["gv", "gi"], top);
  g.node("Reshape", ["gi", "col"], ["gc"]);
  g.constant(
    "members",
    DataType.int64,
    [1, 1, PARTS],
    BigInt64Array.from({ length: PARTS }, (_, j) => BigInt(j * SIZE)),
  );
  g.node("Add", ["gc", "members"], ["ids3"]);
  g.node("Reshape", ["ids3", "flat"], ["ids"]);
  g.node("GatherElements", [logits, "ids"], ["f"], { axis: 1 });
  g.node("TopK", ["f", "k"], ["top", "at"], top);
};
const forms: Record<string, (g: OnnxGraph) => void> = {
  "cast only": (g) => {
    g.node("Cast", ["x"], ["l"], { to: DataType.float });
    int64(g, "k", K);
    g.constant(
      "z",
      DataType.int32,
      [K],
      Int32Array.from({ length: K }, (_, i) => i),
    );
    g.node("Gather", ["l", "z"], ["top"], { axis: 1 });
  },
  "cast, softmax, first": (g) => {
    g.node("Cast", ["x"], ["l"], { to: DataType.float });
    g.node("Softmax", ["l"], ["s"], { axis: -1 });
    g.constant(
      "z",
      DataType.int32,
      [K],
      Int32Array.from({ length: K }, (_, i) => i),
    );
    g.node("Gather", ["s", "z"], ["top"], { axis: 1 });
  },
  "cast, levels": (g) => {
    g.node("Cast", ["x"], ["l"], { to: DataType.float });
    levels(g, "l");
  },
  "levels in fp16": (g) => {
    levels(g, "x");
    g.node("Cast", ["top"], ["top32"], { to: DataType.float });
  },
  "groups by Split and Max": (g) => {
    g.node("Cast", ["x"], ["l"], { to: DataType.float });
    g.node(
      "Split",
      ["l"],
      Array.from({ length: PARTS }, (_, i) => `s${i}`),
      { axis: 1, num_outputs: PARTS },
    );
    g.node(
      "Max",
      Array.from({ length: PARTS }, (_, i) => `s${i}`),
      ["m"],
    );
    finalists(g, "l", "m");
  },
  "groups by ReduceMax": (g) => {
    g.node("Cast", ["x"], ["l"], { to: DataType.float });
    int64(g, "by3", -1, PARTS, SIZE);
    int64(g, "axis1", 1);
    g.node("Reshape", ["l", "by3"], ["l3"]);
    g.node("ReduceMax", ["l3", "axis1"], ["m"], { keepdims: 0 });
    finalists(g, "l", "m");
  },
  "groups by MaxPool": (g) => {
    g.node("Cast", ["x"], ["l"], { to: DataType.float });
    int64(g, "by4", -1, 1, PARTS, SIZE);
    int64(g, "by2", -1, SIZE);
    g.node("Reshape", ["l", "by4"], ["l4"]);
    g.node("MaxPool", ["l4"], ["m4"], { kernel_shape: [PARTS, 1], strides: [PARTS, 1] });
    g.node("Reshape", ["m4", "by2"], ["m"]);
    finalists(g, "l", "m");
  },
  "groups by Split and Max in fp16": (g) => {
    g.node(
      "Split",
      ["x"],
      Array.from({ length: PARTS }, (_, i) => `s${i}`),
      { axis: 1, num_outputs: PARTS },
    );
    g.node(
      "Max",
      Array.from({ length: PARTS }, (_, i) => `s${i}`),
      ["m"],
    );
    finalists(g, "x", "m");
    g.node("Cast", ["top"], ["top32"], { to: DataType.float });
  },
  "whole TopK": (g) => {
    g.node("Cast", ["x"], ["l"], { to: DataType.float });
    int64(g, "k", K);
    g.node("TopK", ["l", "k"], ["top", "at"], top);
  },
  "whole ReduceMax": (g) => {
    g.node("Cast", ["x"], ["l"], { to: DataType.float });
    int64(g, "last", -1);
    g.node("ReduceMax", ["l", "last"], ["m"], { keepdims: 1 });
    g.node("Cast", ["m"], ["top"], { to: DataType.float });
  },
};
const device = process.env["ON_CPU"] === "1" ? null : DEVICES.cuda.open();
const runtime = new Runtime();
for (const rows of process.argv.slice(2).map(Number)) {
  const half = toFloat16(Float32Array.from({ length: rows * V }, (_, i) => Math.sin(i * 12.9898) * 9));
  for (const [name, make] of Object.entries(forms)) {
    try {
      const g = new OnnxGraph("head", "");
      g.input("x", DataType.float16, ["k", V]);
      make(g);
      const out = name.endsWith("fp16") ? "top32" : "top";
      const width = name === "whole ReduceMax" ? 1 : K;
      g.output(out, DataType.float, ["k", width]);
      const path = `/tmp/head-${process.pid}.onnx`;
      writeFileSync(path, g.encode());
      if (device === null) {
        runtime.session(path, { threads: 1 });
        console.log(name, "ok");
        continue;
      }
      using model = device.load(runtime, path, DEVICES.cuda);
      const pinned = device.allocatePinned(half.byteLength);
      new Uint8Array(pinned.buffer).set(new Uint8Array(half.buffer));
      const place = (type: FixedTensor["type"], shape: number[]): FixedTensor => ({
        address: device.allocate(bytesOf(type, shape)),
        shape,
        type,
      });
      const [x, y] = [place(10, [rows, V]), place(1, [rows, width])];
      device.upload(x.address, pinned.address, half.byteLength);
      const run = model.prepare({ x }, { [out]: y });
      run.capture();
      const times: number[] = [];
      for (let i = 0; i < 30; i++) {
        const t = performance.now();
        run.replay();
        device.wait();
        times.push(performance.now() - t);
      }
      device.download(pinned.address, y.address, 4 * rows * width);
      device.wait();
      console.log(
        `rows ${rows}`,
        name.padEnd(34),
        times.sort((a, b) => a - b)[15]!.toFixed(3),
        "ms",
        [...new Float32Array(pinned.buffer, 0, 3)].map((v) => v.toFixed(3)).join(" "),
      );
      run[Symbol.dispose]();
    } catch (error) {
      console.log(`rows ${rows}`, name, "FAILED", (error as Error).message.replace(/\s+/g, " ").slice(0, 200));
    }
  }
}
process.exit(0);
