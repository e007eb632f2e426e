/** A server-sent event: its name (default `message`) and its data, lines joined by a line feed. */
export interface SseEvent {
  readonly event: string;
  readonly data: string;
}

/**
 * Incremental parser of server-sent events (HTML standard, section 9.2.6). Lines end with LF, CR or CRLF, an empty line
 * ends an event, comments and events without data are dropped. Ids and retry times are not kept.
 */
export class SseParser {
  #rest = "";
  #event = "";
  #data: string[] = [];
  #sawReturn = false;

  push(text: string): SseEvent[] {
    const events: SseEvent[] = [];
    if (text === "") return events;
    // A CR at the end of a chunk ended its line: skip the LF of a CRLF split there.
    const input = this.#rest + (this.#sawReturn && text.startsWith("\n") ? text.slice(1) : text);
    this.#sawReturn = text.endsWith("\r");
    const lines = input.split(/\r\n|\n|\r/);
    this.#rest = lines.pop()!;
    for (const line of lines) this.#line(line, events);
    return events;
  }

  #line(line: string, events: SseEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) events.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (field === "data") this.#data.push(value);
    else if (field === "event") this.#event = value;
  }
}
