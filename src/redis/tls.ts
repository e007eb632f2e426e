import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { ConfigError } from "../errors.ts";
import { fileTrouble } from "../file-trouble.ts";

/** As node:tls takes it, in PEM. */
export interface RedisTls {
  /** Authorities that Redis' certificate may be from, instead of the system's. */
  readonly ca?: string;
  /** The client's own certificate and its key. */
  readonly cert?: string;
  readonly key?: string;
}

/** Files, or "". */
export interface RedisTlsFiles {
  readonly store: string;
  readonly redisCaFile: string;
  readonly redisCertFile: string;
  readonly redisKeyFile: string;
}

/** Reads the certificates. Throws ConfigError, which never shows any of a key. */
export function readRedisTls({ store, redisCaFile, redisCertFile, redisKeyFile }: RedisTlsFiles): RedisTls {
  const files = {
    "--redis-ca-file": redisCaFile,
    "--redis-cert-file": redisCertFile,
    "--redis-key-file": redisKeyFile,
  };
  const given = Object.entries(files).filter(([, file]) => file !== "");
  if (given.length > 0 && !store.startsWith("rediss:"))
    throw new ConfigError(`${given[0]![0]}: is for --store rediss://`);
  if ((redisCertFile === "") !== (redisKeyFile === ""))
    throw new ConfigError("--redis-cert-file and --redis-key-file: give both or neither");
  const read = (flag: string, file: string, check: (pem: string) => unknown): string => {
    let pem: string;
    try {
      pem = readFileSync(file, "utf8");
    } catch (error) {
      throw new ConfigError(`${flag} ${file}: ${fileTrouble(error)}`);
    }
    try {
      check(pem);
    } catch {
      throw new ConfigError(`${flag} ${file}: it is not what is wanted, in PEM`);
    }
    return pem;
  };
  const certificate = (pem: string): X509Certificate => new X509Certificate(pem);
  return {
    ...(redisCaFile === "" ? {} : { ca: read("--redis-ca-file", redisCaFile, certificate) }),
    ...(redisCertFile === "" ? {} : { cert: read("--redis-cert-file", redisCertFile, certificate) }),
    ...(redisKeyFile === "" ? {} : { key: read("--redis-key-file", redisKeyFile, createPrivateKey) }),
  };
}
