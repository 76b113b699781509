"""Closed forms and slow loops for the diffusion tests, written from the papers in float64 numpy."""

import math

import numpy as np


def logit_normal_cdf(t, mean, std, factor, uniform_share):
    """P(T <= t) of the mixture: uniform for `uniform_share` of it, else shifted logit-normal.

    A shift by `factor` adds log(factor) to the logit, hence to the mean of the normal.
    """
    z = (math.log(t / (1.0 - t)) - math.log(factor) - mean) / std
    normal = 0.5 * (1.0 + math.erf(z / math.sqrt(2.0)))
    return uniform_share * t + (1.0 - uniform_share) * normal


def gaussian_x(x_t, t, mean, std):
    """E[x | x_t] for x ~ N(mean, std^2) and x_t = (1 - t) x + t eps: the best possible denoiser."""
    a = 1.0 - t
    gain = a * std**2 / (a**2 * std**2 + t**2)
    return mean + gain * (x_t - a * mean)


def gaussian_flow(x_1, t, mean, std):
    """Solution of the probability-flow ODE for that denoiser, started from x_1 at t = 1.

    The ODE keeps a sample's distance from the mean, counted in standard deviations.
    """
    a = 1.0 - t
    return a * mean + np.sqrt(a**2 * std**2 + t**2) * x_1


def joint_gaussian_x(x_t, t, mean, cov, given):
    """E[x | noisy entries at time t, given entries clean] for x ~ N(mean, cov), one sample.

    x_t    [n] clean where given, else (1 - t) x + t eps
    given  bool[n]
    """
    a = 1.0 - t
    scale = np.where(given, 1.0, a)
    noise = np.where(given, 0.0, t**2)
    observed_cov = scale[:, None] * cov * scale[None, :] + np.diag(noise)
    gain = (cov * scale[None, :]) @ np.linalg.inv(observed_cov)
    return mean + gain @ (x_t - scale * mean)


def conditional_gaussian(mean, cov, given, value):
    """Mean and covariance of the entries that are not given, when the given ones equal `value`."""
    free = ~given
    gain = cov[np.ix_(free, given)] @ np.linalg.inv(cov[np.ix_(given, given)])
    return (
        mean[free] + gain @ (value - mean[given]),
        cov[np.ix_(free, free)] - gain @ cov[np.ix_(given, free)],
    )


def given_frames(head, tail, given, frames):
    """The set of given frames of one clip whose mask has no random share."""
    chosen = set(range(min(head, frames))) | set(range(max(frames - tail, 0), frames))
    return chosen | ({given} if given >= 0 else set())


def step_loss(predicted, target, time, floor, noisy, segment, weighting, num_clips, num_tokens):
    """The loss of a step, token by token.

    predicted, target  [R][N][P];  time, noisy, segment  [R][N]
    """
    total = 0.0
    for row in range(len(predicted)):
        clips = {}
        for n, s in enumerate(segment[row]):
            if s == 0 or not noisy[row][n]:
                continue
            difference = np.asarray(predicted[row][n], float) - np.asarray(target[row][n], float)
            error = np.mean(difference**2) / max(float(time[row][n]), floor) ** 2
            clips.setdefault(s, []).append(error)
        for errors in clips.values():
            total += (
                np.mean(errors) / num_clips if weighting == "clip" else sum(errors) / num_tokens
            )
    return total


def clip_guidance(cond, uncond, scale, rescale):
    """Guidance and rescaling of one clip [n, P], as in arXiv:2207.12598 and arXiv:2305.08891."""
    guided = uncond + scale * (cond - uncond)
    rescaled = guided * (np.std(cond) / np.std(guided))
    return rescale * rescaled + (1.0 - rescale) * guided
