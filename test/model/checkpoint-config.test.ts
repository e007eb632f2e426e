import t from "tap";
import { parseGpt2Config } from "../../src/model/checkpoint-config.ts";

const BASE = { model_type: "gpt2" };

t.test("transformers' defaults", async (t) => {
  t.same(parseGpt2Config(BASE), {
    layers: 12,
    heads: 12,
    headDim: 64,
    width: 768,
    inner: 3072,
    positions: 1024,
    vocabSize: 50257,
    layerNormEpsilon: 1e-5,
    activation: "gelu_new",
    scaleAttnWeights: true,
    scaleAttnByInverseLayerIdx: false,
    tieWordEmbeddings: true,
    eosIds: [50256],
    bosId: 50256,
  });
});

t.test("every setting is read, in either spelling", async (t) => {
  const config = parseGpt2Config({
    ...BASE,
    hidden_size: 64,
    num_attention_heads: 2,
    num_hidden_layers: 3,
    max_position_embeddings: 128,
    n_inner: 100,
    n_ctx: 128,
    vocab_size: 300,
    layer_norm_epsilon: 1e-6,
    activation_function: "gelu",
    scale_attn_weights: false,
    scale_attn_by_inverse_layer_idx: true,
    tie_word_embeddings: false,
    reorder_and_upcast_attn: true,
    eos_token_id: [7, 8, 7],
    bos_token_id: 9,
    pruned_heads: {},
    quantization_config: null,
  });
  t.match(config, {
    layers: 3,
    heads: 2,
    headDim: 32,
    width: 64,
    inner: 100,
    positions: 128,
    vocabSize: 300,
    layerNormEpsilon: 1e-6,
  });
  t.match(config, {
    activation: "gelu",
    scaleAttnWeights: false,
    scaleAttnByInverseLayerIdx: true,
    tieWordEmbeddings: false,
    bosId: 9,
  });
  t.same(config.eosIds, [7, 8]);
  t.equal(parseGpt2Config({ ...BASE, n_inner: null, n_embd: 24, n_head: 3 }).inner, 96);
  t.equal(parseGpt2Config({ architectures: ["GPT2LMHeadModel"] }).layers, 12, "an old config without model_type");
});

t.test("EOS ids", async (t) => {
  const eos = (config: object, generation?: object): readonly number[] =>
    parseGpt2Config({ ...BASE, ...config }, generation).eosIds;
  t.same(eos({ eos_token_id: 5 }, { eos_token_id: [6, 7] }), [6, 7], "generation_config.json comes first");
  t.same(eos({ eos_token_id: 5 }, { eos_token_id: 6 }), [6]);
  t.same(eos({ eos_token_id: 5 }, {}), [5]);
  t.same(eos({ eos_token_id: 5 }, { eos_token_id: null }), [5]);
  t.same(eos({ eos_token_id: null }), []);
  t.same(eos({ vocab_size: 100 }), [], "the default id is outside a small vocabulary");
  t.equal(parseGpt2Config({ ...BASE, vocab_size: 100 }).bosId, null);
  t.equal(parseGpt2Config({ ...BASE, bos_token_id: null }).bosId, null);
});

t.test("refusals name the setting", async (t) => {
  const cases: [object | null, string, RegExp][] = [
    [null, "model_invalid", /not a JSON object/],
    [[], "model_invalid", /not a JSON object/],
    [{}, "model_unsupported", /model_type \(missing\)/],
    [{ model_type: "llama", architectures: ["GPT2LMHeadModel"] }, "model_unsupported", /model_type "llama"/],
    [{ ...BASE, add_cross_attention: true }, "model_unsupported", /add_cross_attention/],
    [{ ...BASE, quantization_config: { bits: 4 } }, "model_unsupported", /quantization_config/],
    [{ ...BASE, pruned_heads: { 0: [1] } }, "model_unsupported", /pruned_heads/],
    [{ ...BASE, activation_function: "silu" }, "model_unsupported", /activation_function "silu".*gelu_new/],
    [{ ...BASE, n_head: 7 }, "model_invalid", /n_embd 768 is not a multiple of n_head 7/],
    [{ ...BASE, n_layer: 0 }, "model_invalid", /n_layer 0/],
    [{ ...BASE, n_layer: "12" }, "model_invalid", /n_layer "12"/],
    [{ ...BASE, vocab_size: 1.5 }, "model_invalid", /vocab_size 1\.5/],
    [{ ...BASE, layer_norm_epsilon: 0 }, "model_invalid", /layer_norm_epsilon/],
    [{ ...BASE, scale_attn_weights: 1 }, "model_invalid", /scale_attn_weights/],
    [{ ...BASE, eos_token_id: "x" }, "model_invalid", /eos_token_id/],
    [{ ...BASE, eos_token_id: [-1] }, "model_invalid", /eos_token_id/],
    [{ ...BASE, bos_token_id: 0.5 }, "model_invalid", /bos_token_id/],
  ];
  for (const [config, code, message] of cases)
    t.throws(() => parseGpt2Config(config), { name: "ModelLoadError", code, message });
  t.throws(() => parseGpt2Config(BASE, []), { message: /generation_config\.json/ });
});
