# Makes exact.json, and the generated table of examples/gwas: Rscript exact.R, in this folder.
# Made with R 4.2.2, survival 3.5.3, MASS 7.3.58.2, glmnet 4.1.6. Convergence is
# tightened far below the tolerance of the tests (1e-9 relative).
library(survival)
library(MASS)
suppressMessages(library(glmnet))
library(jsonlite)
num <- function(x) I(as.numeric(x))
ctl <- coxph.control(eps = 1e-13, iter.max = 60, toler.chol = 1e-14)
d <- read.csv("../../examples/cgd/cgd_patient.csv")
fac <- function(d) within(d, {
  treat <- factor(treat, levels = c("placebo", "rIFN-g")); sex <- factor(sex, levels = c("male", "female"))
  inherit <- factor(inherit, levels = c("X-linked", "autosomal")) })
d <- fac(d)
e <- read.csv("../../examples/cgd/cgd.csv")
e <- fac(e)
multi <- ~ treat + sex + age + inherit + steroids + propylac
out <- list()

# theta's error at the estimate itself; MASS gives it at the last iterate but one.
nb <- function(f) {
  m <- glm.nb(f, d, control = glm.control(epsilon = 1e-14, maxit = 200))
  for (i in 1:50) {
    th <- m$theta
    g <- glm(f, negative.binomial(th), d, start = coef(m), control = glm.control(epsilon = 1e-15, maxit = 100))
    mu <- fitted(g); y <- g$y
    u <- function(th) sum(digamma(th + y) - digamma(th) + log(th) + 1 - log(th + mu) - (y + th) / (mu + th))
    i2 <- function(th) -sum(trigamma(th + y) - trigamma(th) + 1 / th - 2 / (mu + th) + (y + th) / (mu + th)^2)
    for (k in 1:50) th <- th + u(th) / i2(th)
    m$theta <- th; m$coefficients <- coef(g)
  }
  x <- model.matrix(g); r <- m$theta * (y - mu) / (m$theta + mu); w <- mu * m$theta / (m$theta + mu); b <- solve(crossprod(x * w, x))
  null <- glm(update(f, . ~ 1 + offset(log(fu))), negative.binomial(th), d, control = glm.control(epsilon = 1e-15, maxit = 100))
  list(theta = th, se_theta = sqrt(1 / i2(th)), coef = num(coef(g)), robust = num(sqrt(diag(b %*% crossprod(x * r) %*% b))), null_deviance = deviance(null))
}
out$negbin <- nb(update(multi, ninf ~ . + offset(log(fu))))

# A baseline that is constant in pieces: Poisson on split rows. Intervals of cgd.csv, clusters are patients.
cuts <- c(60, 120, 180, 240, 300)
s <- survSplit(Surv(tstart, tstop, status) ~ ., e, cut = cuts, episode = "piece")
s$t <- s$tstop - s$tstart
p <- glm(status ~ 0 + factor(piece) + treat + sex + age + inherit + steroids + propylac + offset(log(t)), poisson, s, control = glm.control(epsilon = 1e-15, maxit = 100))
for (i in 1:3) p <- update(p, start = coef(p))
x <- model.matrix(p); u <- rowsum(x * (p$y - fitted(p)), s$id); b <- solve(crossprod(x * fitted(p), x))
null <- glm(status ~ 0 + factor(piece) + offset(log(t)), poisson, s, control = glm.control(epsilon = 1e-15, maxit = 100))
out$piecewise <- list(cuts = num(cuts), coef = num(coef(p)), se = num(sqrt(diag(b))), robust = num(sqrt(diag(b %*% crossprod(u) %*% b))),
  lrt = deviance(null) - deviance(p))

# Effects that change with time, on rows split at every event time.
s <- survSplit(Surv(tstop, status) ~ ., d, cut = sort(unique(d$tstop[d$status == 1])), start = "t0")
s$lt <- (s$treat == "rIFN-g") * log(s$tstop); s$at <- s$age * s$tstop
for (ties in c("efron", "breslow")) {
  f <- coxph(Surv(t0, tstop, status) ~ treat + age + lt + at + strata(site) + cluster(id), s, ties = ties, control = ctl)
  out[[paste0("varying_", ties)]] <- list(coef = num(coef(f)), se = num(sqrt(diag(f$naive.var))), robust = num(sqrt(diag(f$var))), loglik = num(f$loglik))
}

# Proportional hazards against log time, more than one column in a term.
f <- coxph(Surv(tstop, status) ~ treat + factor(law) + age + strata(hos), within(d, hos <- as.integer(site %in% c("nih", "mott"))), control = ctl)
f <- coxph(Surv(tstop, status) ~ treat + age + sex + strata(site), d, control = ctl)
z <- cox.zph(f, transform = "log")$table
out$zph_log <- list(chisq = num(z[, 1]), p = num(z[, 3]))

# Fleming and Harrington's weights, by their formula.
fh <- function(rho, gamma) {
  t <- sort(unique(d$tstop[d$status == 1])); S <- 1; O <- E <- V <- 0
  for (x in t) {
    r <- d$tstop >= x; n <- sum(r); n1 <- sum(r & d$treat == "placebo"); k <- d$tstop == x & d$status == 1; m <- sum(k); m1 <- sum(k & d$treat == "placebo")
    w <- S^rho * (1 - S)^gamma
    O <- O + w * m1; E <- E + w * m * n1 / n; if (n > 1) V <- V + w^2 * m * n1 / n * (1 - n1 / n) * (n - m) / (n - 1)
    S <- S * (1 - m / n)
  }
  list(rho = rho, gamma = gamma, observed = O, expected = E, var = V, chisq = (O - E)^2 / V)
}
out$harrington <- list(fh(0, 1), fh(0.5, 0.5), fh(1, 0), fh(1, 1))
f <- survdiff(Surv(tstop, status) ~ treat + strata(site), d, rho = 1)
out$peto_site <- list(chisq = f$chisq, observed = num(rowSums(f$obs)), expected = num(rowSums(f$exp)))

# Limits of survival curves on a monthly grid.
for (type in c("log", "log-log", "plain")) {
  f <- survfit(Surv(ceiling(tstop / 30) * 30, status) ~ treat, d, conf.type = type)
  g <- lapply(1:2, function(i) { s <- summary(f[i], times = seq(0, 390, 30), extend = FALSE); list(time = num(s$time), surv = num(s$surv), lower = num(s$lower), upper = num(s$upper)) })
  q <- quantile(f, 0.5)
  out[[paste0("limits_", type)]] <- list(groups = g, median = q$quantile[, 1], lower = q$lower[, 1], upper = q$upper[, 1])
}
f <- summary(survfit(Surv(ceiling(tstop / 30) * 30, status) ~ treat, d), rmean = 300)$table
out$rmean <- list(rmean = num(f[, "rmean"]), se = num(f[, "se(rmean)"]))

# Penalised regressions. glmnet stops at a tolerance; thresh asks for its best.
x <- model.matrix(multi, d)[, -1]
path <- function(lambda, ...) { f <- glmnet(x, ..., lambda = lambda, thresh = 1e-28, maxit = 1e8); list(lambda = num(lambda), coef = lapply(seq_along(lambda), function(k) num(as.matrix(coef(f))[, k])), dev = num(f$dev.ratio)) }
out$net <- list(
  gaussian = path(c(5, 2, 0.7, 0.1), d$weight, family = "gaussian", alpha = 1),
  binomial = path(c(0.1, 0.05, 0.02, 0.003), d$any, family = "binomial", alpha = 0.5),
  poisson = path(c(0.3, 0.1, 0.03, 0.005), d$ninf, family = "poisson", alpha = 1, offset = log(d$fu)),
  ridge = path(c(0.5, 0.05), d$any, family = "binomial", alpha = 0),
  raw = path(c(0.05, 0.01), d$any, family = "binomial", alpha = 1, standardize = FALSE))
# glmnet refuses strata that say nothing: the five larger hospitals alone.
big <- c("nih", "amsterdam", "scripps", "mott", "zurich")
k <- d$site %in% big
y <- stratifySurv(Surv(d$tstop, d$status)[k], d$site[k])
# Its own standardisation of a stratified model differs from its documentation, so the columns come
# standardised; it also warns that it did not converge, some 1e-5 from the minimum.
sd <- sqrt(colMeans(x[k, ]^2) - colMeans(x[k, ])^2)
f <- suppressWarnings(glmnet(scale(x[k, ], TRUE, sd), y, family = "cox", alpha = 0.7, lambda = c(0.05, 0.02, 0.005), thresh = 1e-14, standardize = FALSE))
out$net$cox <- list(sites = big, lambda = num(f$lambda), coef = lapply(1:3, function(k) num(as.matrix(coef(f))[, k] / sd)))
out$net$max <- list(binomial = max(glmnet(x, d$any, family = "binomial", alpha = 0.5)$lambda), gaussian = max(glmnet(x, d$weight)$lambda))

# Discrimination and calibration of a logistic fit.
f <- glm(update(multi, any ~ .), binomial, d, control = glm.control(epsilon = 1e-15, maxit = 100))
m <- fitted(f); r <- rank(m); n1 <- sum(d$any); n0 <- sum(!d$any)
bins <- pmin(floor(m * 20), 19); h <- tapply(m, bins, mean)
br <- rank(bins)
out$auc <- list(exact = (sum(r[d$any == 1]) - n1 * (n1 + 1) / 2) / (n0 * n1), binned = (sum(br[d$any == 1]) - n1 * (n1 + 1) / 2) / (n0 * n1),
  brier = mean((d$any - m)^2), cells = list(n = num(table(bins)), observed = num(tapply(d$any, bins, mean)), expected = num(h)))

# Genotypes that are generated, and say so: 600 patients of 6 hospitals, 60 variants.
set.seed(20261121)
n <- 600
g <- data.frame(patient = sprintf("G%04d", 1:n), hospital = paste0("hospital-", sample(6, n, TRUE, c(3, 2, 2, 1, 1, 1))),
  age = round(rnorm(n, 45, 12), 1), sex = sample(c("female", "male"), n, TRUE), pc1 = round(rnorm(n), 4))
af <- c(runif(50, 0.08, 0.5), runif(6, 0.002, 0.02), 0.3, 0.35, 0.25, 0.4)
geno <- sapply(1:60, function(j) {
  q <- plogis(qlogis(af[j]) + 0.2 * g$pc1); v <- rbinom(n, 2, q)
  if (j == 57) v <- ifelse(v == 1 & runif(n) < 0.6, 2, v) # out of Hardy-Weinberg equilibrium
  if (j == 58) v[runif(n) < 0.2] <- NA                    # badly called
  v[runif(n) < 0.01] <- NA
  v })
colnames(geno) <- sprintf("rs%03d", 1:60)
eta <- -0.6 + 0.02 * (g$age - 45) + 0.3 * (g$sex == "male") + 0.3 * g$pc1 + 0.75 * ifelse(is.na(geno[, 7]), 0.5, geno[, 7]) - 0.55 * ifelse(is.na(geno[, 23]), 0.5, geno[, 23])
g$affected <- rbinom(n, 1, plogis(eta)); g$marker <- round(5 + eta + rnorm(n), 3)
all <- cbind(g, geno)
write.csv(all, "../../examples/gwas/genotypes.csv", row.names = FALSE, na = "NA", quote = FALSE)
g$sex <- factor(g$sex)
hwe <- function(aa, ab, bb) { # exact test: Wigginton, Cutler and Abecasis 2005
  k <- aa + ab + bb; a <- 2 * aa + ab; h <- seq(a %% 2, min(a, 2 * k - a), 2)
  l <- lfactorial(k) - lfactorial((a - h) / 2) - lfactorial(h) - lfactorial(k - (a - h) / 2 - h) + h * log(2)
  p <- exp(l - max(l)); p <- p / sum(p); sum(p[p <= p[h == ab] * (1 + 1e-9)]) }
scan <- function(f, family) {
  m <- glm(f, family, g, control = glm.control(epsilon = 1e-15, maxit = 100)); z <- model.matrix(m); w <- m$family$variance(fitted(m)); r <- m$y - fitted(m)
  s2 <- if (family == "gaussian") sum(r^2) / m$df.residual else 1
  lapply(1:60, function(j) {
    v <- geno[, j]; c <- table(factor(v, 0:2)); q <- mean(v, na.rm = TRUE) / 2; v[is.na(v)] <- 2 * q
    u <- sum(v * r); i <- sum(w * v * v) - crossprod(z, w * v)[, 1] %*% solve(crossprod(z * w, z)) %*% crossprod(z, w * v)[, 1]
    list(counts = num(c), af = q, call = mean(!is.na(geno[, j])), hwe = hwe(c[[3]], c[[2]], c[[1]]), score = u / s2, var = as.numeric(i) / s2,
      chisq = u^2 / as.numeric(i) / s2, p = pchisq(u^2 / as.numeric(i) / s2, 1, lower.tail = FALSE)) }) }
out$gwas <- list(binomial = scan(affected ~ age + sex + pc1, "binomial"), gaussian = scan(marker ~ age + sex + pc1, "gaussian"))
j <- geno[, 7]; j[is.na(j)] <- mean(j, na.rm = TRUE)
out$gwas$rao <- anova(glm(affected ~ age + sex + pc1, binomial, g, control = glm.control(epsilon = 1e-15)), glm(affected ~ age + sex + pc1 + j, binomial, g), test = "Rao")$Rao[2]
write_json(out, "exact.json", digits = NA, auto_unbox = TRUE, pretty = FALSE, na = "null")
