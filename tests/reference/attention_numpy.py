"""Attention of one clip in float64, forward and backward, straight from the formula."""

import numpy as np


def attend(q_NAE, k_MAE, v_MAE):
    """Softmax(q k^T / sqrt(E)) v per head (arXiv:1706.03762 eq. 1). Returns out and weights ANM."""
    s = np.einsum("nae,mae->anm", q_NAE, k_MAE) / np.sqrt(q_NAE.shape[-1])
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return np.einsum("anm,mae->nae", p, v_MAE), p


def gradients(q_NAE, k_MAE, v_MAE, d_out_NAE):
    """Gradients of sum(out * d_out) in q, k, v."""
    _, p = attend(q_NAE, k_MAE, v_MAE)
    dp = np.einsum("nae,mae->anm", d_out_NAE, v_MAE)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True)) / np.sqrt(q_NAE.shape[-1])
    return (
        np.einsum("anm,mae->nae", ds, k_MAE),
        np.einsum("anm,nae->mae", ds, q_NAE),
        np.einsum("anm,nae->mae", p, d_out_NAE),
    )


def attend_packed(q, k, v, d_out, q_segment, k_segment):
    """One row, clip by clip: out and the three gradients; zeros where a token has no partner."""
    q, k, v, d_out = (x.astype(np.float64) for x in (q, k, v, d_out))
    out, dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for s in set(q_segment.tolist()) & set(k_segment.tolist()) - {0}:
        here, there = q_segment == s, k_segment == s
        out[here] = attend(q[here], k[there], v[there])[0]
        dq[here], dk[there], dv[there] = gradients(q[here], k[there], v[there], d_out[here])
    return out, dq, dk, dv
