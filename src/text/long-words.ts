/** Byte-pair encoding of long words, in steps: a prompt without blanks is one word. */

/** Merges between two yields: a millisecond or two. */
const MERGES = 1000;
/**
 * rank * PLACES + place is one number that sorts by rank, then place. PLACES exceeds any word's length, and the result
 * fits a double.
 */
const PLACES = 2 ** 31;
const NONE = -1;

/**
 * Tokens of a word of byte-level characters. Repeatedly merges the pair of neighbours with the lowest rank, leftmost
 * first, until no pair can be merged. `rankOf` is undefined for pairs that never merge. Yields once before it begins
 * and after every MERGES merges. O(n log n).
 */
export function* mergeWord(
  word: string,
  rankOf: (left: string, right: string) => number | undefined,
): Generator<void, string[]> {
  // Byte-level characters are one UTF-16 unit each.
  const symbols: (string | null)[] = word.split("");
  // Linked list of symbols; a symbol stays at the place of its first character.
  const next = new Int32Array(symbols.length);
  const previous = new Int32Array(symbols.length);
  for (let place = 0; place < symbols.length; place++) {
    next[place] = place + 1;
    previous[place] = place - 1;
  }
  next[symbols.length - 1] = NONE;
  yield;
  const queue = new Heap();
  let done = 0;
  const offer = (left: number): void => {
    const right = left === NONE ? NONE : next[left]!;
    const rank = right === NONE ? undefined : rankOf(symbols[left]!, symbols[right]!);
    if (rank !== undefined) queue.push(rank * PLACES + left);
  };
  for (let place = 0; place < symbols.length; place++) {
    offer(place);
    if (++done % MERGES === 0) yield;
  }
  for (let first = queue.pop(); first !== undefined; first = queue.pop()) {
    if (++done % MERGES === 0) yield;
    const left = first % PLACES;
    const right = symbols[left] === null ? NONE : next[left]!;
    // Skip stale entries: one of the pair has been merged since.
    if (right === NONE || rankOf(symbols[left]!, symbols[right]!) !== Math.floor(first / PLACES)) continue;
    symbols[left] = symbols[left]! + symbols[right]!;
    symbols[right] = null;
    next[left] = next[right]!;
    if (next[left] !== NONE) previous[next[left]] = left;
    offer(previous[left]!);
    offer(left);
  }
  return symbols.filter((symbol) => symbol !== null);
}

/** A binary min-heap. */
class Heap {
  readonly #numbers: number[] = [];

  push(number: number): void {
    const numbers = this.#numbers;
    let at = numbers.push(number) - 1;
    for (let parent = (at - 1) >> 1; at > 0 && numbers[parent]! > number; at = parent, parent = (at - 1) >> 1)
      numbers[at] = numbers[parent]!;
    numbers[at] = number;
  }

  pop(): number | undefined {
    const numbers = this.#numbers;
    const first = numbers[0];
    const last = numbers.pop();
    if (numbers.length === 0 || last === undefined) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child + 1 < numbers.length && numbers[child + 1]! < numbers[child]!) child++;
      if (child >= numbers.length || numbers[child]! >= last) break;
      numbers[at] = numbers[child]!;
      at = child;
    }
    numbers[at] = last;
    return first;
  }
}
