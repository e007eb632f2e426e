import Type from "typebox";

const file = (description: string) =>
  Type.String({ arg: "FILE", default: "", shown: "none", description: `${description} (PEM); for rediss://` });

/** Settings of `--store redis:` and its kin. */
export const REDIS_SETTINGS = {
  redisWaitReplicas: Type.Integer({
    minimum: 0,
    maximum: 100,
    arg: "N",
    default: 0,
    shown: "0 (those that are connected)",
    description:
      "Redis replicas that must confirm a removal, or any other change that takes something away, before it is answered; with fewer, 503",
  }),
  redisCaFile: file("Authorities that Redis' certificate may be from, instead of the system's"),
  redisCertFile: file("Certificate that this server shows to Redis"),
  redisKeyFile: file("Its private key"),
};
