# Whole fits of 1e6 rows and 20 covariates in R, drawn as bigRows in
# models/bench_test.go draws them: seconds by the clock and of the processor.
library(survival)
set.seed(1)
n <- 1e6
x <- matrix(rnorm(n * 20), n)
eta <- rowSums(x) / 10
y <- rbinom(n, 1, plogis(eta))
time <- rexp(n) * exp(-eta) * 1000
died <- time < 1500
time <- pmin(time, 1500)
cat(R.version.string, "survival", as.character(packageVersion("survival")), "\n")
show <- function(what, f) {
  runs <- lapply(1:3, function(i) system.time(f()))
  t <- runs[[which.min(sapply(runs, `[`, 3))]]
  cat(sprintf("%s: %.2f s by the clock, %.2f s of the processor\n", what, t[3], t[1] + t[2]))
}
show("logistic, glm.fit", function() glm.fit(cbind(1, x), y, family = binomial()))
show("cox, coxph.fit", function()
  coxph.fit(x, Surv(time, died), strata = NULL, offset = NULL, init = NULL, control = coxph.control(),
            weights = NULL, method = "efron", rownames = NULL))
