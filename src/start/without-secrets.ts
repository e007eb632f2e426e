/** The admin key and the store's password are no business of a process that reads users' data. */
export function withoutSecrets(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PREFIXD_")));
}
