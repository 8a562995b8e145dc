"""What tells whether a judge can be trusted: measures of its comparisons, each with bounds and words.

order_flip_agreement   share of pairs whose preferred response is the same in both orders
position_balance       share of comparisons in which (A) is preferred
self_agreement         share of pairs whose preferred response is the same when they are asked about again
length_bias            share of pairs of different length whose longer response is preferred
undecided_share        share of labels that say nothing (0.45 to 0.55)
calibration            expected calibration error against the labels of reviewers (Guo et al., 1706.04599)

Each comes with its 95% interval. A probability of exactly one half prefers nothing.
"""
