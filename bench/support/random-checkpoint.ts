/**
 * Creates an HF GPT-2 folder with random weights (seeded, N(0, 0.02) as GPT-2 is initialised): real sizes without a
 * download.
 *
 *     npx tsx bench/support/random-checkpoint.ts gpt2 DIR [seed]
 */
import { mkdir, open, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseGpt2Config, type Gpt2Config } from "../../src/model/checkpoint-config.ts";
import { gpt2Tensors } from "../../src/model/checkpoint.ts";
import { seededRandom } from "../../src/load/random.ts";

/** layers, heads, width of the published models; distilgpt2 and gpt2-xl included. */
export const SIZES: Readonly<Record<string, { n_layer: number; n_head: number; n_embd: number }>> = {
  distilgpt2: { n_layer: 6, n_head: 12, n_embd: 768 },
  gpt2: { n_layer: 12, n_head: 12, n_embd: 768 },
  "gpt2-medium": { n_layer: 24, n_head: 16, n_embd: 1024 },
  "gpt2-large": { n_layer: 36, n_head: 20, n_embd: 1280 },
  "gpt2-xl": { n_layer: 48, n_head: 25, n_embd: 1600 },
};

const CHUNK = 1 << 20;

/** Writes config.json and model.safetensors (F32) unless they exist; returns the folder. */
export async function randomCheckpoint(dir: string, json: Record<string, unknown>, seed = 0): Promise<string> {
  const config = parseGpt2Config(json);
  const path = join(dir, "model.safetensors");
  await mkdir(dir, { recursive: true });
  const temporary = `${path}.${process.pid}`;
  const file = await open(temporary, "w");
  try {
    await writeTensors(file.write.bind(file), config, seed);
  } finally {
    await file.close();
  }
  await rename(temporary, path);
  await writeFile(join(dir, "config.json"), `${JSON.stringify(json, null, 2)}\n`);
  await rm(temporary, { force: true });
  return dir;
}

async function writeTensors(
  write: (bytes: Uint8Array) => Promise<unknown>,
  config: Gpt2Config,
  seed: number,
): Promise<void> {
  const weights = gpt2Tensors(config);
  const header: Record<string, { dtype: "F32"; shape: readonly number[]; data_offsets: [number, number] }> = {};
  let offset = 0;
  for (const [name, shape] of weights) {
    const bytes = 4 * shape.reduce((product, dim) => product * dim, 1);
    header[name] = { dtype: "F32", shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  let text = JSON.stringify(header);
  text += " ".repeat((8 - (text.length % 8)) % 8);
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true);
  await write(length);
  await write(Buffer.from(text, "latin1"));
  const random = gaussian(seed);
  for (const [name, shape] of weights) {
    let left = shape.reduce((product, dim) => product * dim, 1);
    const fill = /ln_.*weight$/.test(name) ? (): number => 1 + 0.02 * random() : (): number => 0.02 * random();
    while (left > 0) {
      // Float32Array.from would take half as long again.
      const chunk = new Float32Array(Math.min(left, CHUNK));
      for (let i = 0; i < chunk.length; i++) chunk[i] = fill();
      await write(new Uint8Array(chunk.buffer));
      left -= chunk.length;
    }
  }
}

/** Normal deviates: Box-Muller over uniform numbers in (0, 1), never 0. */
function gaussian(seed: number): () => number {
  const random = seededRandom(seed);
  const uniform = (): number => random() + 2 ** -33;
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

if (process.argv[1] !== undefined && resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const [size = "gpt2", dir = `.cache/${size}`, seed = "0"] = process.argv.slice(2);
  const shape = SIZES[size];
  if (shape === undefined) throw new Error(`no such size: ${size} (${Object.keys(SIZES).join(", ")})`);
  const end = { bos_token_id: 50256, eos_token_id: 50256 };
  await randomCheckpoint(
    dir,
    { model_type: "gpt2", activation_function: "gelu_new", vocab_size: 50257, n_positions: 1024, ...shape, ...end },
    Number(seed),
  );
}
