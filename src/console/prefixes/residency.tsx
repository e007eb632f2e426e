/** Where a prefix is, in words: a request with one from the store loads it first. */
export function Residency({ resident }: { resident: boolean }) {
  return (
    <span class="chip">
      <i class={resident ? "dot ok" : "dot"} />
      {resident ? "in memory" : "in the store"}
    </span>
  );
}
