import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

/** An authority's own certificate in `dir`, and `issue`, which makes one for 127.0.0.1. Paths of PEM files. */
export function certificateAuthority(dir: string, name: string): Certificate & { issue(name: string): Certificate } {
  const at = (file: string): string => join(dir, file);
  const openssl = (...args: string[]): void => void execFileSync("openssl", args, { stdio: "ignore" });
  const key = (file: string): string[] => [
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    "-keyout",
    file,
  ];
  const ca = { cert: at(`${name}.pem`), key: at(`${name}.key`) };
  openssl("req", "-x509", ...key(ca.key), "-out", ca.cert, "-days", "2", "-subj", `/CN=${name}`);
  writeFileSync(at("san.ext"), "subjectAltName=IP:127.0.0.1\n");
  return {
    ...ca,
    issue(subject) {
      const own = { cert: at(`${subject}.pem`), key: at(`${subject}.key`) };
      const request = at(`${subject}.csr`);
      openssl("req", ...key(own.key), "-out", request, "-subj", `/CN=${subject}`);
      openssl(
        ...["x509", "-req", "-in", request, "-CA", ca.cert, "-CAkey", ca.key, "-CAcreateserial"],
        ...["-out", own.cert, "-days", "2", "-extfile", at("san.ext")],
      );
      return own;
    },
  };
}
