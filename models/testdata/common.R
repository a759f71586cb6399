# Makes common.json: Rscript common.R, in this folder. R 4.2.2, survival 3.5.3.
# A baseline that hospitals share, on joined cells, from the pooled trial.
library(survival)
library(jsonlite)
num <- function(x) I(as.numeric(x))
ctl <- coxph.control(eps = 1e-13, iter.max = 60, toler.chol = 1e-14)
fac <- function(d) within(d, {
  treat <- factor(treat, levels = c("placebo", "rIFN-g")); sex <- factor(sex, levels = c("male", "female"))
  inherit <- factor(inherit, levels = c("X-linked", "autosomal")) })
d <- fac(read.csv("../../examples/cgd/cgd_patient.csv"))
out <- list()
# A common baseline on joined cells of 30 days, as the rule on counts has it: a
# stretch is closed as soon as nobody or k patients leave in it with the event, and
# nobody or k without; what is left over goes to the stretch before. Strata without
# a stretch are left out.
joined <- function(x, k, strata) {
  x$cell <- ceiling(x$tstop / 30); x$s <- strata(x)
  rows <- NULL
  for (s in sort(unique(x$s))) {
    y <- x[x$s == s, ]; n <- 15
    told <- function(a, b) {
      m <- tapply(y$cell >= a & y$cell <= b, factor(y$status, 0:1), sum, default = 0)
      sum(m) >= k && all(m == 0 | m >= k)
    }
    ends <- integer(0); from <- 0
    for (b in 0:n) if (told(from, b)) { ends <- c(ends, b); from <- b + 1 }
    if (from <= n) repeat {
      if (!length(ends)) break
      from <- if (length(ends) > 1) ends[length(ends) - 1] + 1 else 0
      ends <- ends[-length(ends)]
      if (told(from, n)) { ends <- c(ends, n); break }
    }
    if (!length(ends)) next
    y$t1 <- findInterval(y$cell - 1, ends) + 1; y$t0 <- 0
    rows <- rbind(rows, y)
  }
  rows
}
for (ties in c("efron", "breslow")) for (by in c("none", "sex", "law")) {
  y <- joined(d, 11, switch(by, none = function(x) rep("all", nrow(x)), sex = function(x) as.character(x$sex), law = function(x) as.character(x$law)))
  f <- coxph(update(Surv(t0, t1, status) ~ treat + age + strata(s) + cluster(id), switch(by, none = . ~ . + sex + inherit + steroids + propylac, sex = . ~ . + inherit, law = . ~ . + sex + inherit)), y, ties = ties, control = ctl)
  out[[paste("joined", ties, by, sep = "_")]] <- list(n = nrow(y), patients = length(unique(y$id)), events = sum(y$status), coef = num(coef(f)), se = num(sqrt(diag(f$naive.var))), robust = num(sqrt(diag(f$var))),
    loglik = num(f$loglik), clusters = length(unique(y$id)), stretches = length(unique(paste(y$s, y$t1))))
}
# Concordance of a model with strata that reach across hospitals, among patients
# of one hospital and stratum.
f <- coxph(Surv(tstop, status) ~ treat + age + sex + strata(law), d, control = ctl)
k <- concordance(Surv(tstop, status) ~ predict(f, type = "lp", reference = "sample") + strata(site, law), d, reverse = TRUE)
out$concordance_law <- list(count = num(colSums(rbind(k$count))), concordance = num(k$concordance))
m <- concordance(Surv(tstop, status) ~ predict(coxph(Surv(tstop, status) ~ treat + age + strata(sex), d, control = ctl), type = "lp", reference = "sample") + strata(site, sex), d, reverse = TRUE)
out$concordance_sex <- list(count = num(colSums(rbind(m$count))), concordance = num(m$concordance))
write_json(out, "common.json", digits = NA, auto_unbox = TRUE, pretty = FALSE, na = "null")
