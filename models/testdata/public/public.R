# Makes the tables of this folder and public.json: Rscript public.R, in this folder.
# R 4.2.2, survival 3.5.3, MASS 7.3.58.2. Trials that the package survival ships,
# of other diseases and sizes than examples/cgd; see NOTICE.
library(survival)
library(MASS)
library(jsonlite)
num <- function(x) I(as.numeric(x))
ctl <- coxph.control(eps = 1e-13, iter.max = 60, toler.chol = 1e-14)
fine <- glm.control(epsilon = 1e-15, maxit = 100)
out <- list()
cox <- function(f, d, ties) {
  environment(f) <- environment()
  m <- coxph(f, d, ties = ties, control = ctl); s <- summary(m)
  list(n = m$n, events = m$nevent, coef = num(coef(m)), se = num(sqrt(diag(if (is.null(m$naive.var)) m$var else m$naive.var))),
    robust = if (is.null(m$naive.var)) NULL else num(sqrt(diag(m$var))), loglik = num(m$loglik), score = m$score, p = num(s$coefficients[, ncol(s$coefficients)]),
    zph = num(cox.zph(m, transform = "identity")$table[, 1]))
}
both <- function(name, f, d) for (ties in c("efron", "breslow")) out[[paste0(name, "_", ties)]] <<- cox(f, d, ties)
gl <- function(f, family, d, cluster = NULL, drop = 0) {
  environment(f) <- environment()
  m <- glm(f, family, d, control = fine); for (i in 1:2) m <- update(m, start = coef(m))
  k <- seq_len(length(coef(m)) - drop); v <- vcov(m) # the factor of hospitals stands last
  r <- NULL
  if (!is.null(cluster)) { x <- model.matrix(m); w <- m$weights; b <- solve(crossprod(x * sqrt(w))); u <- rowsum(x * (m$y - fitted(m)), cluster); r <- num(sqrt(diag(b %*% crossprod(u) %*% b))[k]) }
  list(n = length(m$y), coef = num(coef(m)[k]), se = num(sqrt(diag(v))[k]), robust = r, deviance = deviance(m), df = m$df.residual, null = m$null.deviance)
}

# North Central Cancer Treatment Group, advanced lung cancer: 18 institutions.
l <- subset(lung, !is.na(inst)); l$id <- seq_len(nrow(l)); l$site <- paste0("h", l$inst); l$status <- l$status - 1; l$sex <- ifelse(l$sex == 1, "male", "female")
names(l) <- gsub(".", "_", names(l), fixed = TRUE)
write.csv(l[, c("id", "site", "time", "status", "age", "sex", "ph_ecog", "ph_karno", "wt_loss")], "lung.csv", row.names = FALSE, na = "NA", quote = FALSE)
l$sex <- factor(l$sex, levels = c("male", "female"))
both("lung_site", Surv(time, status) ~ age + sex + ph_karno + strata(site), l)
both("lung_common", Surv(time, status) ~ age + sex + ph_karno + wt_loss + cluster(id), l)
f <- survdiff(Surv(time, status) ~ sex + strata(site), l); out$lung_rank <- list(chisq = f$chisq, expected = num(rowSums(f$exp)))
f <- survfit(Surv(time, status) ~ sex, l, conf.type = "log-log"); s <- summary(f, times = c(90, 180, 365, 540))
out$lung_km <- list(time = num(s$time), surv = num(s$surv), lower = num(s$lower), upper = num(s$upper), median = num(summary(f)$table[, "median"]))
out$lung_linear <- local({ m <- lm(wt_loss ~ age + sex + ph_ecog, l); s <- summary(m); list(coef = num(coef(m)), se = num(s$coefficients[, 2]), p = num(s$coefficients[, 4]), r2 = s$r.squared, f = s$fstatistic[[1]]) })
out$lung_table <- local({ t <- table(l$sex, l$ph_ecog); list(counts = num(t(t)), chisq = suppressWarnings(chisq.test(t)$statistic[[1]]), fisher = fisher.test(t)$p.value) })
out$lung_t <- local({ w <- t.test(age ~ sex, l); list(t = w$statistic[[1]], df = w$parameter[[1]], p = w$p.value) })

# rhDNase in cystic fibrosis: 647 patients at 51 institutions, recurrent exacerbations.
first <- subset(rhDNase, !duplicated(id))
dn <- tmerge(first, first, id = id, tstop = as.numeric(end.dt - entry.dt))
end <- with(rhDNase, pmin(ivstop + 6, end.dt - entry.dt))
dn <- tmerge(dn, rhDNase, id = id, infect = event(ivstart), end = event(end))
dn <- subset(dn, infect == 1 | end == 0)
dn$site <- paste0("h", dn$inst)
dn <- as.data.frame(dn)[, c("id", "site", "trt", "fev", "tstart", "tstop", "infect")]
write.csv(dn, "rhdnase.csv", row.names = FALSE, quote = FALSE)
both("dnase_site", Surv(tstart, tstop, infect) ~ trt + fev + strata(site) + cluster(id), dn)
both("dnase_common", Surv(tstart, tstop, infect) ~ trt + fev + cluster(id), dn)
p <- aggregate(cbind(infect, time = tstop - tstart) ~ id + site + trt + fev, dn, sum); p <- p[order(p$id), ]; p$any <- as.integer(p$infect > 0)
write.csv(p, "rhdnase_patient.csv", row.names = FALSE, quote = FALSE)
out$dnase_poisson <- gl(infect ~ trt + fev + offset(log(time)), poisson, p, p$id)
out$dnase_poisson_site <- gl(infect ~ trt + fev + offset(log(time)) + site, poisson, p, NULL, length(unique(p$site)) - 1)
out$dnase_logit <- gl(any ~ trt + fev + trt:fev, binomial, p, p$id)
out$dnase_nb <- local({ m <- glm.nb(infect ~ trt + fev + offset(log(time)), p, control = glm.control(epsilon = 1e-14, maxit = 200)); for (i in 1:5) m <- update(m, init.theta = m$theta, start = coef(m)); list(coef = num(coef(m)), se = num(sqrt(diag(vcov(m)))), theta = m$theta) })
out$dnase_mh <- local({ k <- table(p$site); q <- subset(p, site %in% names(k)[k > 1]); m <- mantelhaen.test(table(q$trt, q$any, q$site), correct = FALSE); list(chisq = m$statistic[[1]], or = m$estimate[[1]]) })

# National Wilms Tumor Study: 4028 children. No centre codes are public: six groups by number.
w <- nwtco; w$site <- paste0("h", w$seqno %% 6); w$histol <- ifelse(w$histol == 1, "favourable", "unfavourable"); w$years <- w$edrel / 365.25
w <- w[, c("seqno", "site", "histol", "stage", "study", "rel", "edrel", "age")]
write.csv(w, "wilms.csv", row.names = FALSE, quote = FALSE)
w$histol <- factor(w$histol); w$stage <- factor(w$stage)
out$wilms_logit <- gl(rel ~ histol + stage + histol:stage + age, binomial, w)
both("wilms_site", Surv(edrel, rel) ~ histol + stage + age + strata(site, study), w)
cuts <- c(180, 360, 720, 1800); s <- survSplit(Surv(edrel, rel) ~ ., w, cut = cuts, episode = "piece", start = "t0"); s$t <- s$edrel - s$t0
out$wilms_piece <- gl(rel ~ 0 + factor(piece) + histol + stage + age + offset(log(t)), poisson, s)

# Levamisole and fluorouracil in colon cancer: 929 patients, two endpoints each. Five groups by number.
k <- colon; k$site <- paste0("h", k$id %% 5); k$rx <- as.character(k$rx)
k <- k[, c("id", "site", "rx", "age", "sex", "obstruct", "nodes", "differ", "etype", "time", "status")]
write.csv(k, "colon.csv", row.names = FALSE, na = "NA", quote = FALSE)
k$rx <- factor(k$rx, levels = c("Obs", "Lev", "Lev+5FU")); k$differ <- factor(k$differ)
both("colon_site", Surv(time, status) ~ rx + age + obstruct + nodes + differ + strata(site, etype) + cluster(id), k)
f <- survdiff(Surv(time, status) ~ rx + strata(site, etype), k); out$colon_rank <- list(chisq = f$chisq, expected = num(rowSums(f$exp)))
out$colon_anova <- local({ a <- anova(lm(nodes ~ rx, k)); list(f = a$F[1], p = a$`Pr(>F)`[1]) })
out$colon_table <- local({ t <- table(k$rx, k$differ); list(chisq = chisq.test(t)$statistic[[1]]) })
write_json(out, "public.json", digits = NA, auto_unbox = TRUE, pretty = FALSE, na = "null")
