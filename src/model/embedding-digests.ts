import { createHash } from "node:crypto";
import type { Checkpoint, CheckpointTensor } from "./checkpoint.ts";
import { toBfloat16, toFloat16 } from "../formats/float16.ts";

type Dtype = "F32" | "F16" | "BF16";

/** fp32 bytes cast and hashed per turn of the event loop: about a millisecond of work. */
const CHUNK_BYTES = 512 * 1024;

/**
 * sha256 of the input and output embeddings, cast to a dtype (round to nearest, ties to even, as torch does). Each
 * dtype but the checkpoint's own is computed on first use, about 0.5 s for GPT-2 small, and cached. The checkpoint must
 * stay open.
 */
export function embeddingDigests(
  checkpoint: Checkpoint,
): (dtype: Dtype) => Promise<{ shape: readonly number[]; sha256: { "wte.weight": string; "lm_head.weight": string } }> {
  const known = new Map<string, Promise<string>>();
  const digest = (name: string, dtype: Dtype): Promise<string> => {
    const key = `${name} ${dtype}`;
    const found = known.get(key) ?? digestAs(checkpoint.tensor(name), dtype);
    known.set(key, found);
    // A failed read may succeed the next time.
    found.catch(() => known.delete(key));
    return found;
  };
  const { shape, config } = checkpoint;
  return async (dtype) => {
    const input = await digest("wte.weight", dtype);
    const output = config.tieWordEmbeddings ? input : await digest("lm_head.weight", dtype);
    return { shape: [shape.vocabSize, shape.width], sha256: { "wte.weight": input, "lm_head.weight": output } };
  };
}

async function digestAs(tensor: CheckpointTensor, dtype: Dtype): Promise<string> {
  if (tensor.dtype === dtype) return tensor.sha256;
  const hash = createHash("sha256");
  for await (const singles of tensor.chunks(CHUNK_BYTES)) {
    const cast = dtype === "F32" ? singles : dtype === "F16" ? toFloat16(singles) : toBfloat16(singles);
    hash.update(new Uint8Array(cast.buffer, cast.byteOffset, cast.byteLength));
  }
  return hash.digest("hex");
}
