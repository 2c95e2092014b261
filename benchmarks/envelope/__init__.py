"""What confidentiality costs: sealing, opening, framing and verifying, and the bytes and milliseconds that they add.

Each step runs the functions that client, node and custodian run, on keys of their own, in one thread. A shape is a body
size with a number of candidates and k-of-n custodians. The steps of all shapes take turns within a round, so that
whatever else the machine does falls on all of them; a round's figure is the median of its repetitions.

| step | whose | what |
|---|---|---|
| seal | client | transcript secret, shares, header, wraps, body |
| order | client | the order's statement, signed |
| admit | node | the order's statement parsed and its signature verified |
| open | node | the envelope parsed, unwrapped, `kc` and the shares' commitments recomputed, the body opened |
| escrow | custodian | its wrap opened, its share and the policy checked |
| combine | auditor | k sealed shares opened and combined to the transcript secret, and the envelope opened with it |
| frame | node | one frame of one token sealed and chained; its signature is `sign` |
| sign | node | the signature over a frame's hash |
| read | client | one frame opened and chained; the check of its signature is `verify` |
| verify | client | the signature over a frame's hash |
"""
