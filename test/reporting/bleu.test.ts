/** BLEU against sacrebleu's figures (test/golden/bleu.json). */
import { readFileSync } from "node:fs";
import t from "tap";
import { corpusBleu, tokens13a } from "../../src/reporting/bleu.ts";

interface Golden {
  readonly tokens: readonly { readonly text: string; readonly tokens: readonly string[] }[];
  readonly corpora: readonly {
    readonly answers: readonly string[];
    readonly references: readonly (readonly string[])[];
    readonly bleu: number;
  }[];
}

const golden = JSON.parse(readFileSync("test/golden/bleu.json", "utf8")) as Golden;

t.test("tokens are those of sacrebleu's 13a", async (t) => {
  for (const { text, tokens } of golden.tokens) t.same(tokens13a(text), tokens, JSON.stringify(text));
});

t.test("scores are sacrebleu's", async (t) => {
  for (const [index, { answers, references, bleu }] of golden.corpora.entries()) {
    const score = corpusBleu(answers, references);
    t.ok(Math.abs(score - bleu) < 1e-9, `corpus ${index}: ${score}, sacrebleu's ${bleu}`);
  }
  t.ok(golden.corpora.filter(({ bleu }) => bleu > 5 && bleu < 95).length >= 4, "not all are extremes");
});
