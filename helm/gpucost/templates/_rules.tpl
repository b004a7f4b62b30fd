{{- /*
The rule files for the settings, as scripts/render_rules.py makes them; a test compares the two.
*/ -}}

{{- /* The settings: rules/settings/default.yaml, the user's over it, and the targets of `scaling`. */ -}}
{{- define "gpucost.ruleSettings" -}}
{{- $rules := default dict .Values.rules -}}
{{- $settings := .Files.Get "files/rules/settings/default.yaml" | fromYaml -}}
{{- $settings = mergeOverwrite $settings (deepCopy (default dict $rules.settings)) -}}
{{- $scaling := default list $settings.scaling -}}
{{- range (default dict .Values.scaling).targets -}}
{{- $scaling = append $scaling (include "gpucost.scalingSettings" (dict "root" $ "target" .) | fromYaml) -}}
{{- end -}}
{{- toYaml (set $settings "scaling" $scaling) -}}
{{- end -}}

{{- define "gpucost.number" -}}{{- printf "%.12g" (float64 .) -}}{{- end -}}
{{- /* Seconds of a Prometheus duration like 1m30s. */ -}}
{{- define "gpucost.seconds" -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- $seconds := 0.0 -}}
{{- range regexFindAll `\d+(ms|s|m|h)` . -1 -}}
{{- $seconds = addf $seconds (mulf (regexFind `^\d+` . | float64) (get $units (regexFind `[a-z]+$` .))) -}}
{{- end -}}
{{- include "gpucost.number" $seconds -}}
{{- end -}}
{{- define "gpucost.oneLine" -}}{{- regexReplaceAll `\s+` (trim .) " " -}}{{- end -}}
{{- define "gpucost.quoted" -}}
{{- printf "\"%s\"" (. | replace "\\" "\\\\" | replace "\"" "\\\"") -}}
{{- end -}}

{{- /* {label="value", ...} of a map; a list of values matches any of them. Labels in `order`. */ -}}
{{- define "gpucost.selector" -}}
{{- $of := .of -}}
{{- $parts := list -}}
{{- range .order -}}
{{- $value := get $of . -}}
{{- if kindIs "string" $value -}}
{{- if hasKey $of . -}}{{- $parts = append $parts (printf "%s=%s" . (include "gpucost.quoted" $value)) -}}{{- end -}}
{{- else if $value -}}
{{- $names := list -}}
{{- range $value -}}
{{- $names = append $names (regexReplaceAll `([()\[\]{}?*+\-|^$\\.&~# ])` . `\${1}`) -}}
{{- end -}}
{{- $parts = append $parts (printf "%s=~%s" . (include "gpucost.quoted" (join "|" $names))) -}}
{{- end -}}
{{- end -}}
{{- if $parts -}}{{- printf "{%s}" (join ", " $parts) -}}{{- end -}}
{{- end -}}

{{- /* The groups of settings.yaml: thresholds, budgets and scaling as series. */ -}}
{{- define "gpucost.settingsGroups" -}}
{{- $settings := . -}}
{{- $tenant := list "idle_after_seconds" "underused_ratio" "expensive_usd_per_hour" "expensive_after_seconds" -}}
{{- $rules := list -}}
{{- range $name := keys .thresholds | sortAlpha -}}
{{- $value := include "gpucost.number" (get $settings.thresholds $name) -}}
{{- if has $name $tenant -}}
{{- $terms := list -}}
{{- range $settings.overrides -}}
{{- if and (hasKey . $name) (not (kindIs "invalid" (get . $name))) -}}
{{- $selector := include "gpucost.selector" (dict "of" . "order" (list "cluster" "namespace" "team")) -}}
{{- $terms = append $terms (printf "%s * tenant:gpucost_holders:info%s" (include "gpucost.number" (get . $name)) $selector) -}}
{{- end -}}
{{- end -}}
{{- $terms = append $terms (printf "%s * tenant:gpucost_holders:info" $value) -}}
{{- $rules = append $rules (dict "record" (printf "tenant:gpucost_%s:setting" $name) "expr" (join "\nor\n" $terms)) -}}
{{- else -}}
{{- $rules = append $rules (dict "record" (printf "gpucost:%s:setting" $name) "expr" (printf "vector(%s)" $value)) -}}
{{- end -}}
{{- end -}}
{{- $rules = append $rules (dict "record" "gpucost:evaluation_interval_seconds:setting" "expr" (printf "vector(%s)" (include "gpucost.seconds" .interval))) -}}
{{- $rules = append $rules (dict "record" "gpucost:pue_ratio:setting" "expr" (printf "vector(%s)" (include "gpucost.number" .energy.pue_ratio))) -}}
{{- if not (kindIs "invalid" .energy.carbon_grams_per_kwh) -}}
{{- $rules = append $rules (dict "record" "gpucost:carbon_grams_per_kwh:setting" "expr" (printf "vector(%s)" (include "gpucost.number" .energy.carbon_grams_per_kwh))) -}}
{{- end -}}
{{- range .targets -}}
{{- $rules = append $rules (dict "record" "workload:gpucost_target_usd_per_request:setting"
  "expr" (printf "vector(%s)" (include "gpucost.number" .usd_per_request))
  "labels" (dict "namespace" .namespace "workload" .workload)) -}}
{{- end -}}
{{- range $price := .api_prices -}}
{{- $cached := $price.input -}}
{{- if not (kindIs "invalid" $price.cached_input) -}}
{{- $cached = $price.cached_input -}}
{{- end -}}
{{- range list (list "input" $price.input) (list "cached_input" $cached) (list "output" $price.output) -}}
{{- $rules = append $rules (dict "record" "workload:gpucost_api_usd_per_million_tokens:setting"
  "expr" (printf "vector(%s)" (include "gpucost.number" (index . 1)))
  "labels" (dict "namespace" $price.namespace "workload" $price.workload "api" $price.api "direction" (index . 0))) -}}
{{- end -}}
{{- end -}}
{{- range .work -}}
{{- $labels := dict "namespace" .namespace "workload" .workload -}}
{{- range $name, $query := dict "named_requests" .requests "cache_hits" .cache_hits -}}
{{- with $query -}}
{{- $rules = append $rules (dict "record" (printf "workload:gpucost_%s:rate5m" $name)
  "expr" (printf "sum by (cluster) (\n  %s\n)" (include "gpucost.oneLine" .)) "labels" $labels) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $groups := list (dict "name" "gpucost-settings.rules" "interval" .interval "rules" $rules) -}}
{{- range .budgets -}}
{{- $groups = append $groups (dict "name" (printf "gpucost-budget-%s.rules" .name) "interval" $settings.interval
  "rules" (include "gpucost.budgetRules" . | fromYamlArray)) -}}
{{- end -}}
{{- range .scaling -}}
{{- $groups = append $groups (dict "name" (printf "gpucost-scaling-%s-%s.rules" .namespace .workload) "interval" "15s"
  "rules" (include "gpucost.scalingRules" . | fromYamlArray)) -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{- define "gpucost.budgetRules" -}}
{{- $match := default dict .match -}}
{{- $order := list "cluster" "namespace" "team" "workload" "workload_kind" "gpu_model" "capacity_type" "node_pool" -}}
{{- $labels := dict "budget" .name -}}
{{- range $label, $value := $match -}}
{{- if kindIs "string" $value -}}{{- $_ := set $labels $label $value -}}{{- end -}}
{{- end -}}
{{- $selector := include "gpucost.selector" (dict "of" $match "order" $order) -}}
{{- $metric := ternary "gpucost_loaded_cost_usd" "gpucost_cost_usd" (eq (default "plain" .cost) "loaded") -}}
{{- $counted := dict -}}
{{- $budget := . -}}
{{- range $span := list "month_to_date" "rate5m" -}}
{{- $of := printf "workload:%s:%s%s" $metric $span $selector -}}
{{- if not (kindIs "invalid" $budget.model_apis) -}}
{{- $of = printf "%s or team_model:gpucost_api_cost_usd:%s%s" $of $span
  (include "gpucost.selector" (dict "of" $budget.model_apis "order" (list "cluster" "team" "model"))) -}}
{{- end -}}
{{- $_ := set $counted $span $of -}}
{{- end -}}
{{- $rules := list (dict "record" "budget:gpucost_usd:setting" "expr" (printf "vector(%s)" (include "gpucost.number" .usd_per_month)) "labels" $labels) -}}
{{- $shares := dict "50" "info" "90" "warning" "100" "critical" -}}
{{- range $share, $severity := .shares -}}{{- $_ := set $shares (toString $share) $severity -}}{{- end -}}
{{- range $share, $severity := $shares -}}
{{- if $severity -}}
{{- $rules = append $rules (dict "record" "budget_share:gpucost_ratio:setting"
  "expr" (printf "vector(%s)" (include "gpucost.number" (divf (float64 $share) 100.0)))
  "labels" (merge (dict "share" (toString $share) "severity" $severity) $labels)) -}}
{{- end -}}
{{- end -}}
{{- $rules = append $rules (dict "record" "budget:gpucost_cost_usd:month_to_date"
  "expr" (printf "sum by (month) (%s)\nor\n0 * gpucost:billing_month_start:timestamp_seconds" $counted.month_to_date)
  "labels" $labels) -}}
{{- $rules = append $rules (dict "record" "budget:gpucost_cost_usd:rate5m"
  "expr" (printf "sum(%s)\nor\n0 * group(gpucost_build_info)" $counted.rate5m)
  "labels" $labels) -}}
{{- toYaml $rules -}}
{{- end -}}

{{- define "gpucost.scalingRules" -}}
{{- $of := . -}}
{{- $labels := dict "namespace" .namespace "workload" .workload -}}
{{- with .cluster -}}{{- $_ := set $labels "cluster" . -}}{{- end -}}
{{- $defaults := dict "up_ratio" 0.7 "down_ratio" 0.3 "min_replicas" 0 "max_replicas" 10 -}}
{{- $rules := list -}}
{{- range list "up_ratio" "down_ratio" "requests_per_replica" "usd_per_request" "usd_per_hour" "min_replicas" "max_replicas" -}}
{{- $value := get $of . -}}
{{- if not (hasKey $of .) -}}{{- $value = get $defaults . -}}{{- end -}}
{{- if ne (toString $value) "" -}}
{{- $rules = append $rules (dict "record" (printf "scaling:gpucost_%s:setting" .) "expr" (printf "vector(%s)" (include "gpucost.number" $value)) "labels" $labels) -}}
{{- end -}}
{{- end -}}
{{- with .queue -}}
{{- $rules = append $rules (dict "record" "scaling:gpucost_queue:setting" "expr" "vector(1)" "labels" $labels) -}}
{{- $rules = append $rules (dict "record" "scaling:gpucost_queue_requests:external" "expr" (printf "sum(%s)" (include "gpucost.oneLine" .)) "labels" $labels) -}}
{{- end -}}
{{- with .arrivals -}}
{{- $rules = append $rules (dict "record" "scaling:gpucost_arrivals_per_second:external" "expr" (printf "sum(%s)" (include "gpucost.oneLine" .)) "labels" $labels) -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}

{{- /* The groups of another file: `text` with what the settings change. */ -}}
{{- define "gpucost.ruleGroups" -}}
{{- $settings := .settings -}}
{{- $groups := list -}}
{{- range (fromYaml .text).groups -}}
{{- $rules := list -}}
{{- range .rules -}}
{{- $change := dict -}}
{{- if .alert -}}
{{- $change = default dict (get (default dict $settings.alerts) .alert) -}}
{{- $notes := .annotations -}}
{{- $_ := set $notes "runbook_url" (replace "rules/RUNBOOK.md#" (printf "%s#" $settings.runbook_url) $notes.runbook_url) -}}
{{- $_ := set $notes "dashboard_url" (printf "%s%s" $settings.grafana_url $notes.dashboard_url) -}}
{{- end -}}
{{- if ne (toString $change.enabled) "false" -}}
{{- $rule := . -}}
{{- with $change.for -}}{{- $rule = set $rule "for" . -}}{{- end -}}
{{- with $change.severity -}}{{- $rule = set $rule "labels" (merge (dict "severity" .) (default dict $rule.labels)) -}}{{- end -}}
{{- $rules = append $rules $rule -}}
{{- end -}}
{{- end -}}
{{- if $rules -}}
{{- $interval := ternary $settings.interval .interval (eq .interval "1m") -}}
{{- $groups = append $groups (merge (dict "rules" $rules "interval" $interval) .) -}}
{{- end -}}
{{- end -}}
{{- toYaml $groups -}}
{{- end -}}

{{- /* Refuses what the schema cannot see: as scripts/render_rules.py does, and a test compares the two. */ -}}
{{- define "gpucost.checkSettings" -}}
{{- $settings := . -}}
{{- if or (le (include "gpucost.seconds" .interval | float64) 0.0) (gt (include "gpucost.seconds" .interval | float64) 240.0) -}}
{{- fail (printf "rules.settings.interval is %s: it must be above 0 and at most 4m, or rates over five minutes have gaps." .interval) -}}
{{- end -}}
{{- range $field := list "budgets" "targets" "api_prices" "work" "scaling" -}}
{{- $seen := dict -}}
{{- range get $settings $field -}}
{{- $name := ternary .name (printf "%s/%s" .namespace .workload) (eq $field "budgets") -}}
{{- if hasKey $seen $name -}}
{{- fail (printf "rules.settings.%s: two are named %q, and both would write the same series." $field $name) -}}
{{- end -}}
{{- $_ := set $seen $name true -}}
{{- end -}}
{{- end -}}
{{- range $budget := .budgets -}}
{{- range $of := list "match" "model_apis" -}}
{{- range $label, $value := default dict (get $budget $of) -}}
{{- range $name := ternary (list $value) $value (kindIs "string" $value) -}}
{{- if regexMatch `[[:cntrl:]]` $name -}}
{{- fail (printf "rules.settings.budgets (%s).%s.%s: %q is no name of printable characters." $budget.name $of $label $name) -}}
{{- end -}}
{{- else -}}
{{- fail (printf "rules.settings.budgets (%s).%s.%s is empty: give one or more names." $budget.name $of $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range .work -}}
{{- if not (or .requests .cache_hits) -}}
{{- fail (printf "rules.settings.work (%s/%s) needs requests or cache_hits." .namespace .workload) -}}
{{- end -}}
{{- end -}}
{{- range .overrides -}}
{{- if not (or .namespace .team .cluster) -}}
{{- fail "rules.settings.overrides: each needs a namespace, team or cluster; without one set rules.settings.thresholds." -}}
{{- end -}}
{{- end -}}
{{- range .scaling -}}
{{- $where := printf "rules.settings.scaling (%s/%s)" .namespace .workload -}}
{{- if ge (float64 (default 0.3 .down_ratio)) (float64 (default 0.7 .up_ratio)) -}}{{- fail (printf "%s.down_ratio must be below up_ratio." $where) -}}{{- end -}}
{{- if gt (int (default 0 .min_replicas)) (int (default 10 .max_replicas)) -}}{{- fail (printf "%s.min_replicas must be at most max_replicas." $where) -}}{{- end -}}
{{- if contains "cost_per_" (printf "%s %s" (default "" .queue) (default "" .arrivals)) -}}
{{- fail (printf "%s: a cost per request or token falls when the load rises, so it says nothing of demand. Ask the gateway for requests." $where) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* All files: name to groups. */ -}}
{{- define "gpucost.ruleFiles" -}}
{{- $settings := include "gpucost.ruleSettings" . | fromYaml -}}
{{- include "gpucost.checkSettings" $settings -}}
{{- $files := dict -}}
{{- $known := dict -}}
{{- $scaled := list -}}
{{- range $settings.scaling -}}{{- $scaled = append $scaled .workload -}}{{- end -}}
{{- $scaled = include "gpucost.selector" (dict "of" (dict "workload" (sortAlpha (uniq $scaled))) "order" (list "workload")) -}}
{{- range $path, $_ := .Files.Glob "files/rules/*.yaml" -}}
{{- $name := base $path -}}
{{- $text := $.Files.Get $path | replace `workload=~"none"` ($scaled | trimPrefix "{" | trimSuffix "}") -}}
{{- range regexFindAll `- alert: \S+` $text -1 -}}{{- $_ := set $known (trimPrefix "- alert: " .) true -}}{{- end -}}
{{- if or (ne $name "scaling.yaml") $settings.scaling -}}
{{- $_ := set $files $name (include "gpucost.ruleGroups" (dict "text" $text "settings" $settings) | fromYamlArray) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := $settings.alerts -}}
{{- if not (hasKey $known $name) -}}
{{- fail (printf "rules.settings.alerts.%s: there is no alert of this name. They are in rules/RUNBOOK.md." $name) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $files "settings.yaml" (include "gpucost.settingsGroups" $settings | fromYamlArray) -}}
{{- toYaml $files -}}
{{- end -}}
