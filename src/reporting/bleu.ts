/**
 * Corpus BLEU (Papineni and others, ACL 2002) as sacrebleu 2.6 computes it: tokenizer 13a, smoothing exp, several
 * references a row.
 */

const ORDERS = 4;

/** mteval-v13a's tokenizer, as sacrebleu has it. */
export function tokens13a(text: string): string[] {
  let line = text.trimEnd().replaceAll("<skipped>", "").replaceAll("-\n", "").replaceAll("\n", " ");
  line = line.replaceAll("&quot;", '"').replaceAll("&amp;", "&").replaceAll("&lt;", "<").replaceAll("&gt;", ">");
  const spaced = ` ${line} `
    .replace(/([{-~[-` -&(-+:-@/])/g, " $1 ")
    .replace(/([^0-9])([.,])/gu, "$1 $2 ")
    .replace(/([.,])([^0-9])/gu, " $1 $2")
    .replace(/([0-9])(-)/g, "$1 $2 ");
  return spaced.split(/\s+/).filter((token) => token !== "");
}

/** 0 to 100. `references[row]` are those of `answers[row]`, one at least. */
export function corpusBleu(answers: readonly string[], references: readonly (readonly string[])[]): number {
  const correct = new Array<number>(ORDERS).fill(0);
  const total = new Array<number>(ORDERS).fill(0);
  let [length, referenceLength] = [0, 0];
  for (const [row, text] of answers.entries()) {
    const answer = tokens13a(text);
    const wanted = references[row]!.map(tokens13a);
    length += answer.length;
    referenceLength += closest(
      answer.length,
      wanted.map((tokens) => tokens.length),
    );
    for (let order = 1; order <= ORDERS; order++) {
      const most = new Map<string, number>();
      for (const tokens of wanted)
        for (const [ngram, count] of ngramsOf(tokens, order)) most.set(ngram, Math.max(count, most.get(ngram) ?? 0));
      for (const [ngram, count] of ngramsOf(answer, order)) {
        total[order - 1]! += count;
        correct[order - 1]! += Math.min(count, most.get(ngram) ?? 0);
      }
    }
  }
  if (correct.every((count) => count === 0) || total.includes(0)) return 0;
  const brevity = length < referenceLength ? Math.exp(1 - referenceLength / length) : 1;
  // Each order without a match counts as half of what the one before it did: 1/2, 1/4, ... n-grams.
  let missing = 1;
  const logs = correct.map((count, index) => Math.log((count > 0 ? count : 1 / (missing *= 2)) / total[index]!));
  return 100 * brevity * Math.exp(logs.reduce((a, b) => a + b, 0) / ORDERS);
}

/** Of equally near lengths the shorter one. */
function closest(length: number, lengths: readonly number[]): number {
  return lengths.reduce((best, one) => {
    const nearer = Math.abs(one - length) - Math.abs(best - length);
    return nearer < 0 || (nearer === 0 && one < best) ? one : best;
  });
}

function ngramsOf(tokens: readonly string[], order: number): Map<string, number> {
  const counts = new Map<string, number>();
  for (let from = 0; from + order <= tokens.length; from++) {
    const ngram = tokens.slice(from, from + order).join(" ");
    counts.set(ngram, (counts.get(ngram) ?? 0) + 1);
  }
  return counts;
}
