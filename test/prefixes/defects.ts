import type { ErrorCode } from "../../src/errors.ts";
import type { PrefixUpload } from "../../src/prefixes/registry-types.ts";
import { CONFIG, COLUMNS, embeddings, floats, P, SOUND, upload } from "./adapter-files.ts";
import { rawSafetensors, safetensors } from "../support/safetensors.ts";
import { SHAPE } from "./records.ts";

/** An upload with one defect, and how it is refused. */
export interface Defect {
  readonly name: string;
  readonly code: ErrorCode;
  readonly message: RegExp;
  make(): PrefixUpload;
}

function config(name: string, code: ErrorCode, message: RegExp, given: object | string | Uint8Array): Defect {
  return { name, code, message, make: () => upload(given) };
}

function change(name: string, code: ErrorCode, message: RegExp, changes: object): Defect {
  return config(name, code, message, { ...CONFIG, ...changes });
}

function weights(
  name: string,
  message: RegExp,
  make: () => Uint8Array,
  code: ErrorCode = "safetensors_invalid",
  changes: object = {},
): Defect {
  return { name, code, message, make: () => upload({ ...CONFIG, ...changes }, make()) };
}

/** A header whose one tensor is the given JSON, over as many data bytes. */
function tensor(name: string, message: RegExp, json: string, data = 4): Defect {
  return weights(name, message, () => rawSafetensors(`{"prompt_embeddings":${json}}`, new Uint8Array(data)));
}

function header(name: string, message: RegExp, text: string | Uint8Array, data = 0): Defect {
  return weights(name, message, () => rawSafetensors(text, new Uint8Array(data)));
}

const entry = (begin: number, end: number): string =>
  `{"dtype":"F32","shape":[${(end - begin) / 4}],"data_offsets":[${begin},${end}]}`;
const C = "adapter_config_invalid";
const M = "adapter_shape_mismatch";
const U = "adapter_type_unsupported";

const CONFIG_DEFECTS: readonly Defect[] = [
  config("empty config", C, /json is empty/, ""),
  config("huge config", C, /larger than 1048576 bytes/, `{"x":"${"y".repeat(1 << 20)}"}`),
  config("config not JSON", C, /a JSON value is expected/, "peft_type: PREFIX_TUNING"),
  config("config ends early", C, /ends too early/, '{"peft_type":'),
  config("config without closing brace", C, /comma or a closing brace/, '{"peft_type":"PREFIX_TUNING"'),
  config("config with trailing text", C, /after the end/, '{"peft_type":"PREFIX_TUNING"} {}'),
  config("config an array", C, /not a JSON object/, "[]"),
  config("config not UTF-8", C, /not UTF-8/, Uint8Array.of(0x7b, 0xff, 0x7d)),
  config("config with a key twice", C, /"peft_type" occurs twice/, '{"peft_type":"PREFIX_TUNING","peft_type":"LORA"}'),
  config("config nested deeply", C, /deeper than 16/, `{"x":${"[".repeat(50_000)}`),
  config("config of very many values", C, /more than 100000 JSON values/, `{"x":[${"1,".repeat(100_000)}1]}`),
  config("config with an endless string", C, /string does not end/, '{"peft_type":"PREFIX'),
  config("config with a bad escape", C, /invalid escape/, '{"peft_type":"\\x"}'),
  config("config with a raw newline in a string", C, /raw control character/, '{"peft_type":"\n"}'),
  config("config with a key that is no string", C, /object key is expected/, "{1:2}"),
  config("config without a colon", C, /a colon is expected/, '{"a" 1}'),
  config("config with an open array", C, /closing bracket/, '{"a":[1 2]}'),
  config("config with an endless number", C, /too many digits/, `{"a":${"9".repeat(100)}}`),
  config(
    "a number beyond doubles where one is needed",
    C,
    /num_virtual_tokens in adapter_config\.json is Infinity, not a whole number/,
    '{"peft_type":"PREFIX_TUNING","num_virtual_tokens":1e999}',
  ),
  config(
    "Python's NaN where a number is needed",
    C,
    /num_layers in adapter_config\.json is NaN, not a whole number/,
    '{"peft_type":"PREFIX_TUNING","num_layers":NaN}',
  ),
  config(
    "Python's -Infinity where a string is needed",
    C,
    /task_type in adapter_config\.json is -Infinity, not a string/,
    '{"peft_type":"PREFIX_TUNING","task_type":-Infinity}',
  ),
  config("two byte order marks", C, /a JSON value is expected/, '\ufeff\ufeff{"peft_type":"PREFIX_TUNING"}'),
  config("no peft_type", C, /has no peft_type/, {}),
  config("__proto__ gives no peft_type", C, /has no peft_type/, '{"__proto__":{"peft_type":"PREFIX_TUNING"}}'),
  change("peft_type a number", C, /peft_type .* is 3, not a string/, { peft_type: 3 }),
  config("a model's config.json", C, /config\.json of a model/, { model_type: "gpt2", n_layer: 2 }),
  config("the original repository's config.json", U, /original PrefixTuning repository; convert/, {
    preseqlen: 5,
    model_type: "gpt2",
  }),
  change("LoRA", U, /peft_type "LORA" is not served; .* change the model itself/, { peft_type: "LORA" }),
  change("an unknown type", U, /peft_type "NOT_YET_MADE" is not served; PREFIX_TUNING, .* are\./, {
    peft_type: "NOT_YET_MADE",
  }),
  change("a type in lower case", U, /peft_type "prefix_tuning" is not served; .* Did you mean "PREFIX_TUNING"\?$/, {
    peft_type: "prefix_tuning",
  }),
  change("a type with a space", U, /Did you mean "P_TUNING"\?$/, { peft_type: "P_tuning " }),
  change("a task in lower case", U, /task_type "causal_lm" is not served; CAUSAL_LM is\. Did you mean "CAUSAL_LM"\?$/, {
    task_type: "causal_lm",
  }),
  change("multitask prompt tuning", U, /needs a task id/, { peft_type: "MULTITASK_PROMPT_TUNING" }),
  change("sequence to sequence", U, /task_type "SEQ_2_SEQ_LM"/, { task_type: "SEQ_2_SEQ_LM" }),
  change("task_type a list", C, /task_type .* is a list, not a string/, { task_type: ["CAUSAL_LM"] }),
  change("two submodules", U, /num_transformer_submodules is 2/, { num_transformer_submodules: 2 }),
  change("submodules a string", C, /num_transformer_submodules .* whole number/, { num_transformer_submodules: "1" }),
  change("modules to save", U, /modules_to_save names trained modules .*\("lm_head"\)/, {
    modules_to_save: ["lm_head"],
  }),
  change("modules to save, no list", C, /modules_to_save .* is true, not a list of strings/, { modules_to_save: true }),
  change("modules to save, no names", C, /modules_to_save .* is a list, not a list of strings/, {
    modules_to_save: [1],
  }),
  change("other number of layers", M, /num_layers is 12.* has 2 layers/, { num_layers: 12 }),
  change("layers a fraction", C, /num_layers .* whole number/, { num_layers: 2.5 }),
  change("other number of heads", M, /num_attention_heads is 12.* has 2/, { num_attention_heads: 12 }),
  change("heads a string", C, /num_attention_heads .* whole number/, { num_attention_heads: "2" }),
  change("other width", M, /token_dim is 768.* has 8/, { token_dim: 768 }),
  change("width a boolean", C, /token_dim .* whole number/, { token_dim: true }),
  change("no virtual tokens", M, /num_virtual_tokens is 0; .* at least 1\./, { num_virtual_tokens: 0 }),
  change("virtual tokens a list", C, /num_virtual_tokens .* whole number/, { num_virtual_tokens: [3] }),
  change("more virtual tokens than rows", M, /3 rows, but num_virtual_tokens is 4/, { num_virtual_tokens: 4 }),
  change("another base", "prefix_base_mismatch", /in adapter_config\.json/, { prefixd_base_fingerprint: "other" }),
  change("the base's fingerprint a number", C, /prefixd_base_fingerprint .* not a string/, {
    prefixd_base_fingerprint: 1,
  }),
  change("the base's name a number", C, /base_model_name_or_path .* is 5, not a string/, {
    base_model_name_or_path: 5,
  }),
  change("the base's name without end", C, /base_model_name_or_path .* longer than 4096/, {
    base_model_name_or_path: "x".repeat(4097),
  }),
  change("the revision an object", C, /revision .* is an object, not a string/, { revision: {} }),
];

const FILE_DEFECTS: readonly Defect[] = [
  weights("empty weights", /file is empty/, () => new Uint8Array(0)),
  weights("weights of 7 bytes", /shorter than its 8-byte/, () => new Uint8Array(7)),
  weights("header longer than allowed", /claims 300000 bytes; at most/, () =>
    rawSafetensors("{}", new Uint8Array(0), 300_000n),
  ),
  weights("header length of 2^63", /claims 9223372036854775808 bytes/, () =>
    rawSafetensors("{}", new Uint8Array(0), 1n << 63n),
  ),
  weights("header longer than the file", /claims 1000 bytes, more than/, () =>
    rawSafetensors("{}", new Uint8Array(0), 1000n),
  ),
  weights("header of no length", /too short to be/, () => rawSafetensors("", new Uint8Array(40))),
  weights("truncated in the data", /beyond the end/, () => SOUND.subarray(0, SOUND.length - 1)),
  weights(
    "bytes after the data",
    /has 3 bytes after its last/,
    () => new Uint8Array(Buffer.concat([SOUND, Buffer.from("abc")])),
  ),
  weights("a PyTorch .bin", /zip archive.*pickle/, () => Buffer.from("PK\x03\x04 archive/data.pkl")),
  weights("an old PyTorch .bin", /Python pickle/, () =>
    Buffer.from([0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9]),
  ),
  weights("a Git LFS pointer", /Git LFS pointer/, () =>
    Buffer.from("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
  ),
  weights("gzip", /gzip/, () => Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0])),
  weights("GGUF", /GGUF/, () => Buffer.from("GGUF\x03\0\0\0\0\0\0\0")),
  weights("HDF5", /HDF5/, () => Buffer.from("\x89HDF\r\n\x1a\n", "latin1")),
  header("header not JSON", /header is not valid: a JSON value is expected/, "{'a':1}".replace("{", "")),
  header("header an array", /header is not valid: it is not a JSON object/, "[1,2,3]"),
  header("header after a space", /begin with an opening brace/, " {}"),
  header("header not UTF-8", /header is not valid: it is not UTF-8/, Uint8Array.of(0x7b, 0x22, 0xc3, 0x28, 0x22, 0x7d)),
  header("header cut off", /header is not valid: the JSON ends/, '{"a":'),
  header(
    "tensor named twice",
    /"prompt_embeddings" occurs twice/,
    `{"prompt_embeddings":${entry(0, 4)},"prompt_embeddings":${entry(0, 4)}}`,
    4,
  ),
  header("header nested", /deeper than 3/, '{"a":{"b":[[[[1]]]]}}'),
  header("a long tensor name", /longer than 256/, `{"${"n".repeat(300)}":${entry(0, 4)}}`, 4),
  header(
    "very many tensors",
    /more than 1024 tensors/,
    `{${Array.from({ length: 2000 }, (_, i) => `"t${i}":${entry(i * 4, i * 4 + 4)}`).join()}}`,
    8000,
  ),
  header("metadata a list", /__metadata__ .* is not an object/, '{"__metadata__":["pt"]}'),
  header("metadata with a number", /value that is not a string, at "n"/, '{"__metadata__":{"n":1}}'),
  header("overlapping tensors", /"b" overlaps/, `{"a":${entry(0, 8)},"b":${entry(4, 12)}}`, 12),
  header(
    "the same bytes twice",
    /"prompt_embeddings" overlaps/,
    `{"a":${entry(0, 8)},"prompt_embeddings":${entry(0, 8)}}`,
    8,
  ),
  header(
    "a hole",
    /4 bytes that belong to no tensor before tensor "b"/,
    `{"a":${entry(0, 4)},"b":${entry(8, 12)}}`,
    12,
  ),
  header("a hole at the start", /8 bytes that belong to no tensor/, `{"a":${entry(8, 12)}}`, 12),
  tensor("tensor a string", /not described by an object/, '"x"'),
  tensor(
    "tensor with another field",
    /unknown field "strides"/,
    '{"dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1]}',
  ),
  tensor("tensor without dtype", /needs a dtype/, '{"shape":[1],"data_offsets":[0,4]}'),
  tensor("unknown dtype", /unknown dtype "F4"/, '{"dtype":"F4","shape":[8],"data_offsets":[0,4]}'),
  tensor("tensor without shape", /needs a shape/, '{"dtype":"F32","data_offsets":[0,4]}'),
  tensor("negative dimension", /a shape that is a list of whole/, '{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}'),
  tensor("fractional dimension", /a shape that/, '{"dtype":"F32","shape":[0.5,2],"data_offsets":[0,4]}'),
  tensor("dimension of 2^60", /a shape that/, '{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}'),
  tensor(
    "product beyond 2^53",
    /product is too large/,
    '{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}',
  ),
  tensor(
    "product that would wrap to 4 bytes",
    /product is too large/,
    '{"dtype":"F32","shape":[4294967297,4294967296,4294967295],"data_offsets":[0,4]}',
  ),
  tensor(
    "very many dimensions",
    /more than 16 dimensions/,
    `{"dtype":"F32","shape":[${"1,".repeat(16)}1],"data_offsets":[0,4]}`,
  ),
  tensor("tensor without offsets", /needs data_offsets/, '{"dtype":"F32","shape":[1]}'),
  tensor("three offsets", /needs data_offsets that are two/, '{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}'),
  tensor("negative offset", /needs data_offsets that are two/, '{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}'),
  tensor("offsets reversed", /reverse order/, '{"dtype":"F32","shape":[1],"data_offsets":[4,0]}'),
  tensor(
    "offsets beyond the file",
    /byte 400 .* beyond the end/,
    '{"dtype":"F32","shape":[100],"data_offsets":[0,400]}',
  ),
  tensor(
    "offsets that do not fit the shape",
    /takes 4 bytes .* but 8/,
    '{"dtype":"F32","shape":[2],"data_offsets":[0,4]}',
  ),
];

const CONTENT_DEFECTS: readonly Defect[] = [
  weights("no tensors", /has no tensors/, () => safetensors({}), M),
  weights(
    "another tensor",
    /no tensor prompt_embeddings, but "base_model\.lora_A"/,
    () => safetensors({ "base_model.lora_A": { dtype: "F32", shape: [1], data: new Uint8Array(4) } }),
    M,
  ),
  weights(
    "a tensor too many",
    /has "extra" besides prompt_embeddings, and only that .* save_embedding_layers=False/,
    () =>
      safetensors({
        prompt_embeddings: { dtype: "F32", shape: [P, COLUMNS], data: floats(P * COLUMNS) },
        extra: { dtype: "F32", shape: [1], data: new Uint8Array(4) },
      }),
    M,
  ),
  weights(
    "the original repository's checkpoint",
    /checkpoint of the original/,
    () =>
      safetensors({
        "wte.weight": { dtype: "F32", shape: [1], data: new Uint8Array(4) },
        "control_trans.0.weight": { dtype: "F32", shape: [1], data: new Uint8Array(4) },
      }),
    U,
  ),
  weights("integers", /dtype I32/, () => embeddings([P, COLUMNS], new Uint8Array(P * COLUMNS * 4), "I32"), M),
  weights("doubles", /dtype F64/, () => embeddings([P, COLUMNS], new Uint8Array(P * COLUMNS * 8), "F64"), M),
  weights("one dimension", /has 1 dimensions/, () => embeddings([P * COLUMNS]), M),
  weights("three dimensions", /has 3 dimensions/, () => embeddings([1, P, COLUMNS]), M),
  weights(
    "rows of another model",
    /rows of 33 values; PREFIX_TUNING on this base model needs 32/,
    () => embeddings([P, COLUMNS + 1]),
    M,
  ),
  weights(
    "embeddings for a KV type",
    /rows of 8 values: embeddings, but PREFIX_TUNING/,
    () => embeddings([P, SHAPE.width]),
    M,
  ),
  weights(
    "keys and values for an embedding type",
    /rows of 32 values: keys and values, but PROMPT_TUNING/,
    () => embeddings([P, COLUMNS]),
    M,
    { peft_type: "PROMPT_TUNING" },
  ),
  weights("transposed", /rows of 3 values; PREFIX/, () => embeddings([COLUMNS, P]), M),
  weights("no rows", /has no rows/, () => embeddings([0, COLUMNS]), M, { num_virtual_tokens: null }),
  weights(
    "as many rows as positions",
    /32 virtual tokens.* at most 31 fit/,
    () => embeddings([32, COLUMNS]),
    "prefix_too_long",
    { num_virtual_tokens: 32 },
  ),
  weights("too many embeddings", /40 virtual tokens/, () => embeddings([40, SHAPE.width]), "prefix_too_long", {
    num_virtual_tokens: 40,
    peft_type: "P_TUNING",
  }),
  weights(
    "NaN",
    /NaN in row 1, column 2/,
    () => embeddings([P, COLUMNS], floats(P * COLUMNS, { [COLUMNS + 2]: NaN })),
    "prefix_not_finite",
  ),
  weights(
    "infinity in the last value",
    / Infinity in row 2, column 31/,
    () => embeddings([P, COLUMNS], floats(P * COLUMNS, { [P * COLUMNS - 1]: Infinity })),
    "prefix_not_finite",
  ),
  weights(
    "an infinite half",
    /-Infinity in row 0, column 0/,
    () =>
      embeddings(
        [P, COLUMNS],
        Uint8Array.from({ length: P * COLUMNS * 2 }, (_, i) => (i === 1 ? 0xfc : 0)),
        "F16",
      ),
    "prefix_not_finite",
  ),
  weights(
    "NaN among embeddings",
    /NaN in row 0, column 5/,
    () => embeddings([P, SHAPE.width], floats(P * SHAPE.width, { 5: NaN })),
    "prefix_not_finite",
    { peft_type: "CPT" },
  ),
  weights(
    "another base in the metadata",
    /in the safetensors metadata/,
    () =>
      safetensors(
        { prompt_embeddings: { dtype: "F32", shape: [P, COLUMNS], data: floats(P * COLUMNS) } },
        { prefixd_base_fingerprint: "other" },
      ),
    "prefix_base_mismatch",
  ),
  {
    name: "files too large",
    code: "body_too_large",
    message: /at most \d+ are accepted/,
    make: () => upload(CONFIG, new Uint8Array(8 << 20)),
  },
  {
    name: "a hard prompt of no tokens",
    code: "empty_prompt",
    message: /at least one token/,
    make: () => ({ kind: "hard", ids: new Int32Array(0) }),
  },
  {
    name: "a hard prompt with an id too large",
    code: "invalid_token_id",
    message: /64 is not in the vocabulary/,
    make: () => ({ kind: "hard", ids: Int32Array.of(1, 64) }),
  },
  {
    name: "a hard prompt with a negative id",
    code: "invalid_token_id",
    message: /-1 is not in/,
    make: () => ({ kind: "hard", ids: Int32Array.of(-1) }),
  },
  {
    name: "a hard prompt as long as the context",
    code: "prefix_too_long",
    message: /33 virtual tokens/,
    make: () => ({ kind: "hard", ids: new Int32Array(33) }),
  },
];

export const DEFECTS: readonly Defect[] = [...CONFIG_DEFECTS, ...FILE_DEFECTS, ...CONTENT_DEFECTS];

/** Different ways to one and the same defect. */
export const SAME_MESSAGE: readonly (readonly string[])[] = [
  ["config not JSON", "two byte order marks"],
  ["no peft_type", "__proto__ gives no peft_type"],
  ["tensor without shape", "negative dimension", "fractional dimension", "dimension of 2^60"],
  ["product beyond 2^53", "product that would wrap to 4 bytes"],
  ["tensor without offsets", "three offsets", "negative offset"],
];
