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
e <- fac(read.csv("../../examples/cgd/cgd.csv"))
e$law <- d$law[match(e$id, d$id)]
out <- list()
# A common baseline on joined cells of 30 days, as the rule on counts has it: a
# stretch is closed as soon as k patients leave in it and, under Efron's ties,
# nobody or k patients with an event are in it; what is left over goes to the
# stretch before. Strata without a stretch are left out.
joined <- function(x, start, k, ties, strata) {
  x$cell <- ceiling(x$tstop / 30); x$entry <- floor(start(x) / 30); x$s <- strata(x)
  rows <- NULL
  for (s in sort(unique(x$s))) {
    y <- x[x$s == s, ]; n <- 15; cells <- 0:n
    last <- tapply(y$cell, y$id, max); fell <- if (any(y$status == 1)) tapply(y$cell[y$status == 1], y$id[y$status == 1], max) else integer(0)
    told <- function(a, b) sum(last >= a & last <= b) >= k && (ties == "breslow" || sum(y$status[y$cell >= a & y$cell <= b]) == 0 || sum(fell >= a & fell <= b) >= k)
    ends <- integer(0); from <- 0
    for (b in cells) if (told(from, b)) { ends <- c(ends, b); from <- b + 1 }
    if (from <= n) repeat {
      if (!length(ends)) break
      from <- if (length(ends) > 1) ends[length(ends) - 1] + 1 else 0
      ends <- ends[-length(ends)]
      if (told(from, n)) { ends <- c(ends, n); break }
    }
    if (!length(ends)) next
    y$t1 <- findInterval(y$cell - 1, ends) + 1; y$t0 <- findInterval(y$entry, ends)
    rows <- rbind(rows, y)
  }
  rows
}
for (ties in c("efron", "breslow")) for (by in c("none", "law")) for (iv in c("first", "all")) {
  group <- if (by == "law") function(x) as.character(x$law) else function(x) rep("all", nrow(x))
  y <- joined(if (iv == "all") e else d, if (iv == "all") function(x) x$tstart else function(x) rep(0, nrow(x)), 11, ties, group)
  f <- coxph(update(Surv(t0, t1, status) ~ treat + sex + age + inherit + strata(s) + cluster(id), if (by == "law") . ~ . else . ~ . + steroids + propylac), y, ties = ties, control = ctl)
  out[[paste("joined", ties, by, iv, sep = "_")]] <- list(n = nrow(y), patients = length(unique(y$id)), events = sum(y$status), coef = num(coef(f)), se = num(sqrt(diag(f$naive.var))), robust = num(sqrt(diag(f$var))),
    loglik = num(f$loglik), clusters = length(unique(y$id)))
}
# Concordance of a model with strata that reach across hospitals, among patients
# of one hospital and stratum.
f <- coxph(Surv(tstop, status) ~ treat + age + sex + strata(law), d, control = ctl)
k <- concordance(Surv(tstop, status) ~ predict(f, type = "lp", reference = "sample") + strata(site, law), d, reverse = TRUE)
out$concordance_law <- list(count = num(colSums(rbind(k$count))), concordance = num(k$concordance))
m <- concordance(Surv(tstop, status) ~ predict(coxph(Surv(tstop, status) ~ treat + age + strata(sex), d, control = ctl), type = "lp", reference = "sample") + strata(site, sex), d, reverse = TRUE)
out$concordance_sex <- list(count = num(colSums(rbind(m$count))), concordance = num(m$concordance))
write_json(out, "common.json", digits = NA, auto_unbox = TRUE, pretty = FALSE, na = "null")
