"""The local quadratic view of distillation (arXiv 2605.11739, appendix on linearised dynamics), without any matrix.

With the logits linearised at the base, z = z0 + J d, the loss of on-policy distillation on given contexts is about

    loss(d) = loss(0) - b^T d + d^T A d / 2,     A = E[J^T F J],  b = E[J^T F (z_teacher - z0)],  F = diag(p0) - p0 p0^T

where the mean is over the tokens of completions that the base sampled. -b is the exact gradient at d = 0. The root
R = sqrt(weight) (diag(sqrt(p0)) - sqrt(p0) p0^T) J of A has a row for each token and each entry of the vocabulary:
A = R^T R and b = R^T r. Eigenvectors are looked for on the side of the rows, where A's eigenvalues are those of R R^T,
so that nothing of the model's size has to be kept for each of them.

    contexts     which tokens, under which masks
    root         products with R, R^T and A: one jvp, one vjp, or both, in micro-batches
    lanczos      eigenvalues and eigenvectors of a symmetric matrix that is known by its products
    spectrum     those of A, the share of b in each, the predicted path of gradient descent, and the tail's bound
    loss         the true loss along a line, and the path of gradient descent itself
    covariance   the spread of the gradients of single completions, of distillation and of reinforcement learning
    modules      norms of a vector by parameter, kind of module and layer

Nothing here samples, and nothing needs a tokenizer: `effopd.linearize` joins it to tasks, and is the command.
"""
