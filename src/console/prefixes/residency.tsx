/** Where a prefix is, in words: a request with one from the store loads it first. */
export function Residency({ resident }: { resident: boolean }) {
  return (
    <span class={resident ? "chip ok" : "chip"}>
      <i class="dot" />
      {resident ? "in memory" : "in the store"}
    </span>
  );
}
