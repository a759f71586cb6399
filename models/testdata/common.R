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
# A common baseline on joined cells of 30 days, as the rules on counts have it: a
# stretch is closed as soon as nobody or k patients leave in it with the event, and
# nobody or k without; what is left over goes to the stretch before. Then stretches
# are joined likewise until nobody or three of each level leave in each, with the
# event and without. Strata without a stretch are left out.
greedy <- function(n, told) { # ends of the stretches of 1 to n
  ends <- integer(0); from <- 1
  for (b in seq_len(n)) if (told(from, b)) { ends <- c(ends, b); from <- b + 1 }
  while (from <= n && length(ends)) {
    from <- if (length(ends) > 1) ends[length(ends) - 1] + 1 else 1
    ends <- ends[-length(ends)]
    if (told(from, n)) { ends <- c(ends, n); from <- n + 1 }
  }
  ends
}
count <- function(y, in_it) tapply(in_it, factor(y$status, 0:1), sum, default = 0)
joined <- function(x, k, strata, levels) {
  x$s <- strata(x); rows <- NULL
  for (s in sort(unique(x$s))) {
    y <- x[x$s == s, ]; cell <- ceiling(y$tstop / 30) + 1
    ends <- greedy(16, function(a, b) { m <- count(y, cell >= a & cell <= b); sum(m) >= k && all(m == 0 | m >= k) })
    y$t1 <- findInterval(cell - 1, ends) + 1
    of <- unlist(lapply(levels, function(v) lapply(unique(x[[v]]), function(l) y[[v]] == l)), recursive = FALSE)
    ends <- greedy(length(ends), function(a, b) all(sapply(of, function(l) { m <- count(y, l & y$t1 >= a & y$t1 <= b); all(m == 0 | m >= 3) })))
    if (!length(ends)) next
    y$t1 <- findInterval(y$t1 - 1, ends) + 1; y$t0 <- 0
    rows <- rbind(rows, y)
  }
  rows
}
for (ties in c("efron", "breslow")) for (by in c("none", "free", "sex", "law", "five")) {
  terms <- c("treat", "age", switch(by, none = c("sex", "inherit"), free = c("sex", "inherit", "steroids", "propylac"), sex = "inherit", law = character(0), five = "propylac"))
  y <- joined(d, if (by == "five") 5 else 11, switch(by, sex = function(x) as.character(x$sex), law = function(x) as.character(x$law), function(x) rep("all", nrow(x))), if (by == "free") NULL else setdiff(terms, "age"))
  f <- coxph(reformulate(c(terms, "strata(s)", "cluster(id)"), "Surv(t0, t1, status)"), y, ties = ties, control = ctl)
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
