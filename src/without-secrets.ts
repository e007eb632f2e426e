/** This process's environment for a child: the admin key and the store's password are no business of it. */
export function withoutSecrets(): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("PREFIXD_")));
}
