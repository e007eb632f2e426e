/** `1 user`, `2 users`. `many`: the plural, where it is not the noun and an s. */
export function counted(count: number, noun: string, many = `${noun}s`): string {
  return `${count} ${count === 1 ? noun : many}`;
}
