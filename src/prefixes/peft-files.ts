/** Writes an adapter as PEFT's save_pretrained does. */
import { tensorFile } from "../formats/safetensors.ts";
import type { ModelShape } from "../kv.ts";
import { joinHeads } from "./peft-layout.ts";
import { CONFIG_FILE, TENSOR, WEIGHTS_FILE } from "./peft.ts";

export interface TrainedAdapter {
  /** prefix: `[layers, 2, heads, P, headDim]`; prompt: `[P, width]`. */
  readonly kind: "prefix" | "prompt";
  readonly values: Float32Array;
  readonly virtualTokens: number;
  readonly shape: ModelShape;
  /** base_model_name_or_path */
  readonly baseName: string | null;
  /** Of the base model: a server refuses the adapter for any other. */
  readonly fingerprint: string;
  /** encoder_hidden_size and prefix_projection; null: no network was behind the prefix. */
  readonly hidden: number | null;
}

/** PEFT's two files by name. Their keys are those of peft 0.21; older ones that do not know a key ignore it. */
export function peftFiles(adapter: TrainedAdapter): ReadonlyMap<string, Uint8Array> {
  const { kind, values, virtualTokens, shape, fingerprint } = adapter;
  const rows = kind === "prefix" ? joinHeads(values, virtualTokens, shape) : values;
  const tensor = {
    dtype: "F32",
    shape: [virtualTokens, rows.length / virtualTokens],
    data: new Uint8Array(rows.buffer, rows.byteOffset, rows.byteLength),
  };
  const metadata = new Map([
    ["format", "pt"],
    ["prefixd_base_fingerprint", fingerprint],
  ]);
  return new Map([
    [CONFIG_FILE, Buffer.from(`${JSON.stringify(peftConfig(adapter), null, 2)}\n`)],
    [WEIGHTS_FILE, tensorFile(new Map([[TENSOR, tensor]]), metadata)],
  ]);
}

function peftConfig({ kind, virtualTokens, shape, baseName, hidden }: TrainedAdapter): Record<string, unknown> {
  const common = {
    base_model_name_or_path: baseName,
    inference_mode: true,
    num_attention_heads: shape.heads,
    num_layers: shape.layers,
    num_transformer_submodules: 1,
    num_virtual_tokens: virtualTokens,
    revision: null,
    task_type: "CAUSAL_LM",
    token_dim: shape.width,
  };
  return kind === "prefix"
    ? {
        ...common,
        encoder_hidden_size: hidden ?? shape.width,
        peft_type: "PREFIX_TUNING",
        prefix_projection: hidden !== null,
      }
    : { ...common, peft_type: "PROMPT_TUNING", prompt_tuning_init: "RANDOM", prompt_tuning_init_text: null };
}
