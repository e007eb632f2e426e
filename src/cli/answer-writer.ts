import { oneLine } from "../one-line.ts";

/** What is written to: a terminal, a pipe or a file. */
export interface Output {
  readonly isTTY?: boolean;
  write(text: string): unknown;
}

/**
 * Prints several answers that arrive together, one under the other: the first that has not ended as it comes, those
 * after it when their turn is there. With more than one answer or choice, each begins with its name. Control characters
 * of a text reach files and pipes, but no terminal.
 */
export class AnswerWriter {
  readonly #answers: { readonly name: string; readonly choices: string[]; ended: boolean }[];
  readonly #width: number;
  readonly #out: Output;
  readonly #plain: boolean;
  /** Answer and choice in turn, and how much of its text is printed; -1: not even its name. */
  #turn = 0;
  #choice = 0;
  #printed = -1;

  /** @param plain answers without names, such as lines of JSON */
  constructor(names: readonly string[], out: Output, plain: boolean) {
    this.#answers = names.map((name) => ({ name, choices: [], ended: false }));
    this.#width = Math.max(...names.map((name) => name.length));
    this.#out = out;
    this.#plain = plain || names.length === 1;
  }

  /** Appends to a choice of an answer. */
  add(answer: number, choice: number, text: string): void {
    const { choices } = this.#answers[answer]!;
    choices[choice] = (choices[choice] ?? "") + text;
    this.#print();
  }

  /** Nothing more comes for the answer. */
  end(answer: number): void {
    this.#answers[answer]!.ended = true;
    this.#print();
  }

  #print(): void {
    for (let answer = this.#answers[this.#turn]; answer !== undefined; answer = this.#answers[this.#turn]) {
      const text = answer.choices[this.#choice];
      if (text !== undefined) {
        if (this.#printed < 0) {
          this.#write(this.#plain ? "" : `${oneLine(answer.name)}:`.padEnd(this.#width + 1));
          this.#printed = 0;
        }
        this.#write(text.slice(this.#printed));
        this.#printed = text.length;
      }
      // A later choice can have come further: its turn is when the whole answer is there.
      if (!answer.ended) return;
      if (this.#printed >= 0) this.#out.write("\n");
      this.#printed = -1;
      if (this.#choice + 1 < answer.choices.length) this.#choice++;
      else [this.#turn, this.#choice] = [this.#turn + 1, 0];
    }
  }

  #write(text: string): void {
    if (text !== "") this.#out.write(this.#out.isTTY === true ? text.replace(/[^\n\t]+/g, oneLine) : text);
  }
}
