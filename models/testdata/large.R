# Makes large.json: Rscript large.R, in this folder. Made with R 4.2.2, survival 3.5.3, glmnet 4.1.6.
# One hospital with more rows than a processor takes at a time. The rows are generated, and say so: by
# Park and Miller's generator (Comm. ACM 31, 1988), whose products are exact in doubles; ten draws a row.
library(survival)
suppressMessages(library(glmnet))
library(jsonlite)
num <- function(x) I(as.numeric(x))
n <- 20000
s <- numeric(10 * n); v <- 1
for (i in seq_along(s)) { v <- (16807 * v) %% 2147483647; s[i] <- v }
s <- matrix(s, n, byrow = TRUE)
d <- data.frame(x = s[, 1] %% 10, z = (s[, 2] %/% 1000) %% 2, fu = 1 + (s[, 3] %/% 1000) %% 5)
# How many of seven draws are low; the limit rises with the covariates.
d$count <- rowSums((s[, 4:10] %/% 1000) %% 1000 < 50 + 40 * d$x + 30 * d$z)
f <- glm(count ~ x + z + offset(log(fu)), poisson, d, control = glm.control(epsilon = 1e-15, maxit = 100))
lambda <- c(0.5, 0.1, 0.01)
g <- glmnet(as.matrix(d[, c("x", "z")]), d$count, "poisson", offset = log(d$fu), lambda = lambda, thresh = 1e-28, maxit = 1e8)
out <- list(n = n, sums = lapply(d, sum), poisson = list(coef = num(coef(f)), se = num(sqrt(diag(vcov(f)))), deviance = deviance(f), null_deviance = f$null.deviance),
  net = list(lambda = num(lambda), dev = num(g$dev.ratio)))
# Strata of many sizes: 6,000 pairs, 80 of fifty rows, two of two thousand.
i <- 0:(n - 1)
d$set <- ifelse(i < 12000, i %/% 2, ifelse(i < 16000, 6000 + (i - 12000) %/% 50, 7000 + (i - 16000) %/% 2000))
d$stop <- 1 + (s[, 4] %/% 1000) %% 20
d$start <- (s[, 5] %/% 1000) %% d$stop
d$died <- as.numeric((s[, 6] %/% 1000) %% 100 < 30 + 4 * d$x)
out$sums <- lapply(d, sum)
for (ties in c("efron", "breslow")) for (late in c(FALSE, TRUE)) {
  t <- if (late) Surv(d$start, d$stop, d$died) else Surv(d$stop, d$died)
  f <- coxph(t ~ x + z + strata(set), d, ties = ties, control = coxph.control(eps = 1e-13, iter.max = 60, toler.chol = 1e-14))
  out$cox[[paste0(ties, if (late) "_late")]] <- list(coef = num(coef(f)), se = num(sqrt(diag(f$var))), loglik = num(f$loglik))
}
write_json(out, "large.json", digits = NA, auto_unbox = TRUE, pretty = TRUE)
