export function Logo() {
  return (
    <svg viewBox="0 0 22 16" aria-hidden="true">
      <path d="M1.5 2v12M5 2v12M8.5 2v12" stroke="currentColor" stroke-width="1.6" fill="none" />
      <rect x="12" y="2" width="9" height="12" rx="2" fill="currentColor" />
    </svg>
  );
}
