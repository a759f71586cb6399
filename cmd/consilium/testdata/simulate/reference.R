# Makes the tables and reference numbers of this folder: Rscript reference.R
# Made with R 4.2.2 and survival 3.5.3. Convergence is tightened far below the
# tolerance of the tests (1e-9 relative).
library(survival)
library(jsonlite)
ctl <- coxph.control(eps = 1e-12, iter.max = 50, toler.chol = 1e-14)
num <- function(x) I(as.numeric(x))
cox <- function(...) {
  f <- coxph(..., control = ctl)
  o <- list(coef = num(coef(f)), se = num(sqrt(diag(if (is.null(f$naive.var)) f$var else f$naive.var))),
            loglik = num(f$loglik), lrt = 2 * diff(f$loglik), score = f$score, rows = f$n, events = f$nevent, missing = length(f$na.action))
  if (!is.null(f$naive.var)) o$robust <- num(sqrt(diag(f$var)))
  o
}
# glm ends one step before its weights do: three more fits from the estimate.
fit <- function(...) { f <- glm(..., control = glm.control(epsilon = 1e-14, maxit = 100)); for (i in 1:3) f <- update(f, start = coef(f)); f }
lm1 <- function(f, keep = seq_along(coef(f))) {
  s <- summary(f)
  list(coef = num(s$coefficients[keep, 1]), se = num(s$coefficients[keep, 2]), deviance = f$deviance, df = f$df.residual, rows = length(f$y), missing = length(f$na.action))
}
robust <- function(f, cluster) { # sandwich over clusters, no small-sample factor
  x <- model.matrix(f); u <- rowsum(x * (f$y - fitted(f)), cluster); b <- solve(crossprod(x * f$weights, x)); num(sqrt(diag(b %*% crossprod(u) %*% b)))
}
rank <- function(...) { s <- survdiff(...); list(chisq = s$chisq, observed = num(rowSums(as.matrix(s$obs))), expected = num(rowSums(as.matrix(s$exp)))) }
km <- function(f, times) lapply(seq_along(f$strata), function(g) { s <- summary(f[g], times = times, extend = TRUE); list(surv = num(s$surv), risk = num(s$n.risk), error = num(s$std.err / s$surv)) })
out <- list()
save <- function(name, d, column, refs) { write.csv(d, paste0(name, ".csv"), row.names = FALSE, na = "NA"); out[[name]] <<- list(column = column, sites = length(unique(d[[column]])), analyses = refs) }

# Lung cancer by institution: sites of two and three rows, a site without an event, missing values.
d <- lung[!is.na(lung$inst), ]
d <- data.frame(inst = paste("Inst.", d$inst), time = d$time, status = d$status - 1, age = d$age, sex = factor(d$sex, labels = c("male", "female")),
                ecog = d$ph.ecog, karno = d$ph.karno, loss = d$wt.loss, calories = d$meal.cal)
save("lung", d, "inst", list(
  efron = cox(Surv(time, status) ~ age + sex + ecog + loss + strata(inst), d),
  breslow = cox(Surv(time, status) ~ sex * age + log(karno) + I(ecog^2) + strata(inst), d, ties = "breslow"),
  robust = cox(Surv(time, status) ~ age + sex + calories + strata(inst) + cluster(inst), d),
  logrank = rank(Surv(time, status) ~ sex + strata(inst), d),
  km = list(curves = km(survfit(Surv(ceiling(time / 30) * 30, status) ~ sex, d), seq(0, 900, 30))),
  linear = lm1(fit(calories ~ age + sex + loss, gaussian, d)),
  within = lm1(fit(calories ~ age + sex + ecog + inst, gaussian, d), 2:4),
  logit = lm1(fit(status ~ age + sex + ecog, binomial, d))))

# Bladder tumours, (start, stop], each patient at one of 51 sites.
d <- bladder2
d <- data.frame(site = sprintf("H%02d", d$id %% 51), id = d$id, rx = factor(d$rx, labels = c("placebo", "thiotepa")), number = d$number, size = d$size,
                start = d$start, stop = d$stop, event = d$event, enum = d$enum)
save("bladder", d, "site", list(
  ag = cox(Surv(start, stop, event) ~ rx + number + size + strata(site) + cluster(id), d),
  pwp = cox(Surv(start, stop, event) ~ rx + number + size + strata(site, enum) + cluster(id), d, ties = "breslow"),
  site = cox(Surv(start, stop, event) ~ rx + number + size + strata(site) + cluster(site), d)))

# Heart transplants, (start, stop], six sites.
d <- heart
d <- data.frame(site = LETTERS[d$id %% 6 + 1], id = d$id, start = d$start, stop = d$stop, event = d$event, age = d$age, surgery = d$surgery, transplant = as.integer(as.character(d$transplant)))
save("heart", d, "site", list(
  cox = cox(Surv(start, stop, event) ~ age * transplant + surgery + strata(site), d),
  rank = { s <- cox(Surv(start, stop, event) ~ transplant + strata(site), d, ties = "breslow"); s }))

# Drawn: 60 sites, some of one row, levels and events missing at some, odd words, numbers as 1e3.
set.seed(60)
n <- 500
size <- c(rep(1, 12), sample(2:40, 48, TRUE)); site <- sample(60, n, TRUE, size); site[1:60] <- 1:60
arm <- sample(c("std: \"A\", plain", "new/\u03b2 #2", "no"), n, TRUE); arm[site %% 7 == 0] <- "no"
age <- round(runif(n, 20, 80), 1); dose <- signif(rexp(n, 1 / 1500), 2); fu <- round(runif(n, .2, 5), 2)
eta <- -1 + .03 * (age - 50) + .5 * (arm == "no") + rnorm(60)[site] / 2
y <- rbinom(n, 1, plogis(eta)); y[site %% 11 == 0] <- 0
d <- data.frame(hospital = sprintf("Zentrum, Nr. %d", site), arm = arm, age = age, dose = dose, fu = fu, y = y, count = rpois(n, fu * exp(eta / 2)), score = round(10 + eta * 3 + rnorm(n), 3))
d$age[sample(n, 20)] <- NA; d$arm[sample(n, 10)] <- NA; d$dose[sample(n, 15)] <- NA
f <- within(d, arm <- factor(arm, levels = c("no", "std: \"A\", plain", "new/\u03b2 #2")))
p <- fit(y ~ arm + age + sqrt(dose), binomial, f)
save("centres", within(d, dose <- ifelse(is.na(dose), NA, sprintf("%e", dose))), "hospital", list(
  logit = c(lm1(p), list(robust = robust(p, f$hospital[-p$na.action]))),
  poisson = lm1(fit(count ~ arm + age + I(age^2) + offset(log(fu)), poisson, f)),
  gaussian = lm1(fit(score ~ 0 + arm + age, gaussian, f)),
  within = lm1(fit(score ~ arm + age + hospital, gaussian, f), 2:4),
  logitwithin = { g <- f[!f$hospital %in% names(which(tapply(f$y[complete.cases(f[c("arm", "age")])], f$hospital[complete.cases(f[c("arm", "age")])], function(v) mean(v) %in% 0:1))), ]; o <- lm1(fit(y ~ arm + age + hospital, binomial, g), 2:4); o[c("coef", "se", "deviance")] }))
write_json(out, "reference.json", digits = NA, auto_unbox = TRUE, pretty = TRUE)
